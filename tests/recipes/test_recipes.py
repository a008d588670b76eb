"""Every recipe YAML names only options its script has, every plan loads, and every script explains itself."""

import importlib.util
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from llama_align import recipe
from llama_align.data import DataSource
from llama_align.rounds import Plan
from llama_align.rounds.plan import read_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPTS = sorted(RECIPES.glob("*.py"))
PLANS = sorted(path for path in RECIPES.glob("*/*.yaml") if "\nsteps:" in path.read_text())
YAMLS = sorted({*RECIPES.glob("*/*.yaml")} - {*PLANS})
# a recipe prints its command as this, whatever launches it
COMMAND = re.compile(r"recipes/(\w+)\.py --(?:config|plan) (recipes/[\w./-]+\.yaml)")


def types_of(script: str, monkeypatch) -> tuple[type, ...]:
    """The dataclasses a recipe hands to `recipe.run`."""
    handed = []
    monkeypatch.setattr(recipe, "run", lambda main, *types, doc=None: handed.append(types))
    path = RECIPES / f"{script}.py"
    spec = importlib.util.spec_from_file_location("__main__", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return handed[0]


def module_of(script: str, monkeypatch):
    """A recipe as a module, `main` not run."""
    monkeypatch.setattr(recipe, "run", lambda *_, **__: None)
    spec = importlib.util.spec_from_file_location(script, RECIPES / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"part": [0, 0.6]}, True),
        ({"part": [0.9, 1]}, False),
        ({"part": [0, 0.91]}, False),
        ({}, False),
        ({"datasets": [{"path": "a.jsonl", "part": [0, 0.9]}]}, True),
        ({"datasets": [{"path": "a.jsonl", "part": [0, 0.9]}, "b.jsonl"]}, False),
        ({"eval_part": None}, True),
    ],
)
def test_held_out_prompts_of_a_reward_model_are_not_trained_on(options, fits, monkeypatch):
    reward = module_of("reward", monkeypatch)
    args = reward.RewardArguments(**{"datasets": ["a.jsonl"], "eval_part": [0.9, 1]} | options)
    refused = pytest.raises(recipe.RecipeError, match=r"eval_part: found \[0.9, 1\] beside the part \[")
    with nullcontext() if fits else refused:
        reward.check_parts(args)


def script_of(path: Path) -> str:
    """The recipe a YAML is for, as its own comment says."""
    return COMMAND.search(path.read_text())[1]


def test_there_are_recipes():
    names = {path.stem for path in SCRIPTS}
    assert names >= {"tokenizer", "pretrain", "sft", "reward", "rejection_sampling", "ppo", "dpo", "average"}
    assert len(YAMLS) > 15
    assert len(PLANS) == 13


@pytest.mark.parametrize("path", [*YAMLS, *PLANS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_the_command_in_a_yaml_is_about_that_yaml(path):
    command = COMMAND.search(path.read_text())
    assert command, "expected the command that runs it in a comment"
    assert (RECIPES.parent / command[2]) == path


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_yaml_names_only_options_of_its_recipe(path, monkeypatch):
    types = types_of(script_of(path), monkeypatch)
    known = {name for kind in types for name, field in kind.__dataclass_fields__.items() if field.init}
    config = read_yaml(path).content
    assert set(config) <= known
    for key in ("datasets", "eval_datasets", "texts"):
        for source in config.get(key, []):
            DataSource.parse(source)


@pytest.mark.parametrize("path", PLANS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_plan_loads_and_sets_only_options_of_its_recipes(path, monkeypatch):
    monkeypatch.chdir(RECIPES.parent)  # where the files of a launch are named from
    plan = Plan.load(path, RECIPES)
    for step in plan.steps:
        types = types_of(step.recipe, monkeypatch)
        known = {name for kind in types for name, field in kind.__dataclass_fields__.items() if field.init}
        assert set(plan.configs[step.name]) <= known, step.name


@pytest.mark.parametrize(("name", "lines"), [("llama2", 80), ("llama3", 100)])
def test_a_programme_is_read_in_a_minute(name, lines):
    path = RECIPES / "herd-nano" / f"{name}.yaml"
    assert len(path.read_text().splitlines()) < lines
    assert max(map(len, path.read_text().splitlines())) <= 120
    names = [step.name for step in Plan.load(path, RECIPES).steps]
    assert len(names) == {"llama2": 38, "llama3": 85}[name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_a_recipe_is_short_and_shows_its_command(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 150
    command = COMMAND.search(text)
    assert command[1] == path.stem
    assert (RECIPES.parent / command[2]).is_file()


@pytest.mark.parametrize("name", ["evaluate", "rounds"])
def test_help_and_a_misspelt_key(name, tmp_path):
    script = str(RECIPES / f"{name}.py")
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--output_dir" in shown.stdout
    config = tmp_path / "config.yaml"
    config.write_text("output_dri: runs/x\n")
    refused = subprocess.run([sys.executable, script, "--config", str(config)], capture_output=True, text=True)
    assert refused.returncode == 2
    assert f"{config}, line 1, field 'output_dri': unknown option, did you mean 'output_dir'?" in refused.stderr
    assert "Traceback" not in refused.stderr
