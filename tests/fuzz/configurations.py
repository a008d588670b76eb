"""The YAMLs of recipes/ with something wrong in them, through the parser of their recipe; and plans."""

import dataclasses
import random
import runpy
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from llama_align import recipe
from llama_align.recipe import options
from llama_align.recipe.bounds import hints_of
from llama_align.rounds import Plan

from .rows import paths_of, put
from .trial import OTHER, SAME, Trial, changed_bytes

RECIPES = Path(__file__).parents[2] / "recipes"
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "a whole number": 7,
    "a negative number": -1,
    "a large negative number": -(10**12),
    "a huge number": 10**18,
    "a fraction": 0.37,
    "a huge fraction": 1e30,
    "text": "zoqui",
    "empty text": "",
    "long text": "x" * 5000,
    "a number as text": "7",
    "a list": [],
    "a list of text": ["zoqui"],
    "a list of wrong things": [[1], None, {"a": 2}],
    "a mapping": {},
    "a mapping of things": {"zoqui": [1, {"b": None}]},
    "a variable": "costs $5 {sft",
}
RAW = {
    "nan": ".nan",
    "infinity": "-.inf",
    "a date": "2024-01-01",
    "a tag": "!!python/name:os.system ''",
    "a number of 5,000 digits": "9" * 5000,
    "a lone surrogate": '"\\ud800"',
    "deep nesting": "[" * 3000 + "]" * 3000,
    "an alias of itself": "&a [*a]",
    "an alias of nothing": "*nobody",
}
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
TEXT_OPTIONS = "text of its own: what it names is looked up when the recipe starts"
ACCEPTED = {
    # kinds are "recipe.option: change: type of the option"
    "*: null: *None*": "null stands for a default of the option",
    "*: null: *Optional*": "null stands for a default of the option",
    "*: *text: *str*": TEXT_OPTIONS,
    "*: text: list*str*": "one text alone is a list of one",
    "*: a variable: *str*": TEXT_OPTIONS,
    "*: a number as text: *str*": TEXT_OPTIONS,
    "*: *: *list*dict*": "sources of data are checked one by one when they are read",
    "*.lr_scheduler_kwargs*: *": "arguments of a schedule, which took them",
    "*_kwargs*: *: *dict*": "a library's own settings are checked by it",
    "*_config*: *: *dict*": "a library's own settings are checked by it",
    "*.deepspeed*: *": "a library's own settings are checked by it",
    "*.engine_options*: *": "vLLM's own settings are checked by it",
    "curate.*: *: *dict*": "steps of curation are checked one by one before anything is read",
    "judge_data.*: *: *dict*": "sources and runs by name are checked before anything is trained",
    "mix.*: *: *dict*": "sources and runs by name are checked before anything is trained",
    "scaling.*: *: *dict*": "sources and runs by name are checked before anything is trained",
    "pretrain.size_overrides*: *": "checked when the model is made, before data is read",
    "*: true: *bool*": "it is one of two",
    "*.resume_from_checkpoint: true: *": "the newest checkpoint, as is last",
    "*.resume_from_checkpoint: false: *": "none, as where it is left out",
    "*.trackio_static_space_id: false: *": "it is one of its values",
    "*: false: *bool*": "it is one of two",
    "*: a list: list*": "nothing of it; a recipe that needs some says so",
    "*: a list of text: list*str*": TEXT_OPTIONS,
    "*: a mapping: dict*": "nothing of it; a recipe that needs some says so",
    "*: a whole number: *int*": "within the bounds of the option",
    "*: a whole number: *float*": "within the bounds of the option",
    "*: a fraction: *float*": "within the bounds of the option",
    "*: zero: *int*": "within the bounds of the option",
    "*: zero: *float*": "within the bounds of the option",
    "*.max_steps: a negative number: *": "-1: as many as the epochs have",
    "*.threshold: *number: *": "a score may be any number",
    "*.threshold: a negative number: *": "a score may be any number",
    "*: removed": "the option is left at its default",
    "bytes *": "another letter in a text or number is another value; a file cut between two lines is shorter",
    "plan: *set*: *": "the options of a step are checked by its recipe, before any work",
    "plan: steps.repeat.steps.from.*: *": "the options of a step are checked by its recipe, before any work",
    "plan: *start.best: text": "what a round begins with may be any checkpoint",
    "plan: steps.repeat.rounds: a whole number": "another number of rounds",
    "plan: *name: text": "another name",
    "plan: *name: long*": "another name",
    "plan: *config: null": "a step without a YAML of its own",
    "plan: seed: *": "another seed",
    "plan: *removed": "what may be left out of a plan",
    "plan: bytes *": "another letter in a text is another text",
}


def dataclasses_of() -> dict[str, tuple[type, ...]]:
    """The dataclasses of every recipe, as its script hands them to `recipe.run`."""
    found = {}
    for script in sorted(RECIPES.glob("*.py")):

        def note(main, *types, doc=None, name=script.stem):
            found[name] = types

        with patch.object(recipe, "run", note), patch.object(options, "run", note):
            runpy.run_path(str(script), run_name="__main__")
    return found


def stages() -> list[tuple[str, Path]]:
    """Recipe and path of every shipped YAML."""
    names = sorted((p.stem for p in RECIPES.glob("*.py")), key=len, reverse=True)
    yamls = sorted(p for p in RECIPES.glob("*/*.yaml") if "\nsteps:" not in p.read_text())
    return [(next(name for name in names if p.stem.startswith(name)), p) for p in yamls]


def _changed(draw: random.Random, content: dict, keys: tuple) -> tuple[str, str]:
    how = draw.choice(["value"] * 6 + ["raw"] * 2 + ["removed"])
    if how == "removed":
        return "removed", yaml.safe_dump(put(content, keys, None, remove=True))
    if how == "value":
        kind, value = draw.choice([*VALUES.items()])
        return kind, yaml.safe_dump(put(content, keys, value))
    kind, raw = draw.choice([*RAW.items()])
    return kind, yaml.safe_dump(put(content, keys, "@@")).replace("'@@'", raw).replace("@@", raw)


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    draw = random.Random(f"configurations/{seed}")
    types = dataclasses_of()
    shutil.copytree(RECIPES / "herd-nano", folder / "herd-nano", dirs_exist_ok=True)
    for _ in range(count):
        yield _plan(draw, folder) if draw.random() < 0.25 else _stage(draw, types, folder)


def _stage(draw: random.Random, types: dict[str, tuple[type, ...]], folder: Path) -> Trial:
    name, path = draw.choice(stages())
    text = path.read_text()
    hints = hints_of(types[name])
    content = yaml.safe_load(text)
    how = draw.choice(["shipped"] * 3 + ["any"] * 5 + ["bytes", "bomb", "twice", "unknown", "env"])
    if how == "bytes":
        kind, raw = changed_bytes(draw, text.encode())
        kind = f"bytes {kind}"
    elif how in ("bomb", "twice", "unknown", "env"):
        key = draw.choice([*content])
        more = {
            "bomb": BOMB,
            "twice": yaml.safe_dump({key: content[key]}),
            "unknown": f"{key}s_: 1\n",
            "env": "env: {LD_PRELOAD: x.so}\n",
        }
        kind, raw = how, f"{text}\n{more[how]}".encode()
    else:
        key = draw.choice([*content] if how == "shipped" else [*hints])
        keys = draw.choice([k for k in paths_of(content) if k[0] == key]) if key in content else (key,)
        if key not in content:
            content[key] = None
        kind, changed = _changed(draw, content, keys)
        raw = changed.encode()
        inner = "." + ".".join(map(str, keys[1:])) if len(keys) > 1 else ""
        kind = f"{name}.{key}{inner}: {kind}" + ("" if kind == "removed" else f": {hints[key]}")
    return Trial(kind, _parsing(types[name], raw, path, folder), raw.decode(errors="replace"))


def _parsing(types: tuple[type, ...], raw: bytes, original: Path, folder: Path):
    def run() -> str:
        file = folder / "stage.yaml"
        file.write_bytes(raw)
        before = _parsed(types, original)
        found = recipe.parse(types, ["--config", str(file)])
        return SAME if all(map(_equal, before, found)) else OTHER

    return run


@cache
def _parsed(types: tuple[type, ...], path: Path) -> tuple:
    return recipe.parse(types, ["--config", str(path)])


def _equal(first: Any, second: Any) -> bool:
    return all(
        str(getattr(first, f.name, None)) == str(getattr(second, f.name, None))
        for f in dataclasses.fields(first)
        if f.name not in ("logging_dir", "run_name")
    )


def _plan(draw: random.Random, folder: Path) -> Trial:
    name = draw.choice(["rounds.yaml", "llama2.yaml"])
    original = folder / "herd-nano" / name
    text = (RECIPES / "herd-nano" / name).read_text()
    how = draw.choice(["value"] * 6 + ["bytes", "bomb"])
    if how == "bytes":
        kind, raw = changed_bytes(draw, text.encode())
        kind = f"plan: bytes {kind}"
    elif how == "bomb":
        kind, raw = "plan: bomb", f"{text}\n{BOMB}".encode()
    else:
        content = yaml.safe_load(text)
        keys = draw.choice([*paths_of(content)])
        kind, changed = _changed(draw, content, keys)
        raw = changed.encode()
        kind = f"plan: {'.'.join(str(key) for key in keys if not isinstance(key, int))}: {kind}"
    return Trial(kind, _loading(raw, text, original), raw.decode(errors="replace"))


@cache
def _shipped(text: str, path: Path) -> tuple:
    path.write_text(text)
    return _digests(Plan.load(path, RECIPES))


def _digests(plan: Plan) -> tuple:
    return plan.name, plan.steps, plan.identities()


def _loading(raw: bytes, text: str, path: Path):
    def run() -> str:
        path.write_bytes(raw)
        found = Plan.load(path, RECIPES)
        before = _shipped(text, path.with_name("shipped.yaml"))
        return SAME if _digests(found) == before else OTHER

    return run
