"""Options read off the sources are those of the true dataclasses, in every recipe."""

import dataclasses
import enum
import runpy
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from llama_align import recipe
from llama_align.recipe import bounds, options
from llama_align.recipe.outline import Unreadable, dataclass_of, outline
from llama_align.recipe.reading import owner_of

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPTS = sorted(RECIPES.glob("*.py"))


@pytest.fixture(scope="module")
def true_types():
    found, kept = {}, (recipe.run, options.run)
    try:
        for path in SCRIPTS:
            recipe.run = options.run = lambda main, *types, doc=None, path=path: found.setdefault(path, (types, doc))
            runpy.run_path(str(path), run_name="__main__")
    finally:
        recipe.run, options.run = kept
    return found


def told(value):
    """A type or value without the identity of classes, which are made twice."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, type):
        return [value.__name__, *([each.value for each in value] if issubclass(value, enum.Enum) else [])]
    if origin := typing.get_origin(value):
        return [str(origin), *map(told, typing.get_args(value))]
    return value


def default(field):
    made = field.default_factory is not dataclasses.MISSING
    found = field.default_factory() if made else field.default
    return "none" if found is dataclasses.MISSING else told(found)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_outline_is_the_dataclasses_of_a_recipe(path, true_types):
    types, doc = true_types[path]
    found = outline(path)
    assert (found.doc, [kind.__name__ for kind in found.types]) == (doc.strip(), [kind.__name__ for kind in types])
    for kind, true in zip(found.types, types, strict=True):
        hints, true_hints = bounds.hints_of([kind]), bounds.hints_of([true])
        assert [field.name for field in dataclasses.fields(kind)] == [field.name for field in dataclasses.fields(true)]
        for field, other in zip(dataclasses.fields(kind), dataclasses.fields(true), strict=True):
            name = field.name
            assert field.init == other.init, name
            assert told(hints.get(name)) == told(true_hints.get(name)), name
            assert default(field) == default(other), name
            assert field.metadata.get("help") == other.metadata.get("help"), name
            assert list(field.metadata.get("choices") or ()) == list(other.metadata.get("choices") or ()), name
        assert owner_of([kind]) == owner_of([true])


def test_a_class_of_an_installed_package():
    found = dataclass_of("accelerate.commands.config.config_args", "ClusterConfig")
    assert {"mixed_precision", "num_processes"} <= bounds.hints_of([found]).keys()


@pytest.mark.parametrize(
    "text", ["x = (", "print(1)", "recipe.run(main, Unknown)", "from nowhere import A\nrecipe.run(main, A)"]
)
def test_what_is_not_understood_is_said(text, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(text)
    with pytest.raises(Unreadable):
        outline(path)


def test_a_mistake_and_help_come_before_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "stage.yaml").write_text("output_dir: out\nlearning_rte: 1\n")
    run = [sys.executable, "-c", "import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
           "runpy.run_path(sys.argv[0], run_name='__main__')", str(tmp_path), str(RECIPES / "dpo.py")]  # fmt: skip
    wrong = subprocess.run(
        [*run, "--config", str(tmp_path / "stage.yaml")], capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(f"error: {tmp_path / 'stage.yaml'}, line 2, field 'learning_rte': unknown option")
    shown = subprocess.run([*run, "--help"], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    places = [shown.stdout.index(f"\n{title}:") for title in ("options of the recipe", "options of trl")]
    places.insert(1, shown.stdout.index("--nll_coefficient"))
    assert [shown.stdout.index("--datasets"), *places[1:]] == sorted([shown.stdout.index("--datasets"), *places[1:]])
    assert shown.stdout.index("--learning_rate") > places[-1]
