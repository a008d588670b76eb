"""Paths among the options of every recipe: `~` and variables of the environment are replaced, or refused by name."""

import pytest

from llama_align import recipe
from llama_align.recipe.bounds import hints_of
from llama_align.recipe.paths import PATHS, expand_paths
from llama_align.recipe.whole import is_local
from tests.recipes.test_recipes import SCRIPTS, types_of

# options of text or of texts that name no file of ours, by what their names have in common with those that do
OTHERS = {"model_revision", "metric_for_best_model", "model_init_kwargs"}
IGNORED = ("vllm_", "hub_", "push_to_hub_")


@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS])
def test_every_path_of_a_recipe_is_expanded(script, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RUNS", f"{tmp_path}/runs")
    types = types_of(script, monkeypatch)
    hints = hints_of(types)
    here = PATHS & hints.keys()
    lines = []
    for name in here:
        kind = str(hints[name])
        value = "{a: $RUNS/x, b: ~/y}" if "dict" in kind else "[$RUNS/x, ~/y]" if "list" in kind else "${RUNS}/x"
        lines.append(f"{name}: {value}")
    config = tmp_path / "options.yaml"
    config.write_text("\n".join(sorted(lines)))
    stages = recipe.parse(types, ["--config", str(config)])
    found = {name: getattr(stage, name) for stage in stages for name in here if hasattr(stage, name)}
    assert found.keys() == here
    for value in found.values():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        assert set(values) <= {f"{tmp_path}/runs/x", f"{tmp_path}/y"}


@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS])
def test_no_option_that_names_a_model_or_a_folder_is_left_out(script, monkeypatch):
    words = ("model", "tokenizer", "reference", "output_dir", "resume_from")
    types = types_of(script, monkeypatch)
    for kind in types:
        own = {f.name for f in kind.__dataclass_fields__.values() if any(word in f.name for word in words) and f.init}
        texts = {name for name in own if "str" in str(hints_of([kind])[name]) or "dict" in str(hints_of([kind])[name])}
        assert texts - PATHS - OTHERS - {name for name in texts if name.startswith(IGNORED)} == set(), kind


def test_a_variable_that_is_not_set_is_refused_by_the_option(tmp_path, monkeypatch):
    config = tmp_path / "options.yaml"
    config.write_text("output_dir: out\nmodels: [$NOWHERE_AT_ALL/x]\n")
    with pytest.raises(
        recipe.RecipeError, match=r"^models: \$NOWHERE_AT_ALL/x: the environment variable NOWHERE_AT_ALL"
    ):
        recipe.parse(types_of("average", monkeypatch), ["--config", str(config)])


@pytest.mark.parametrize("path", ["~/model", "$HOME/model", "${HOME}/model"])
def test_what_nobody_expanded_is_no_name_on_the_hub(path):
    assert is_local(path)
    with pytest.raises(recipe.RecipeError, match="found no such directory, expected a checkpoint"):
        recipe.check_checkpoint(path)


def test_paths_that_are_none_stay_as_they_are():
    options = recipe.ModelArguments(model_name_or_path="owner/model")
    expand_paths(options)
    assert options == recipe.ModelArguments(model_name_or_path="owner/model")
