"""Everything that is wrong with a plan, by line, its stages' options among it. Imports nothing that trains."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from ..recipe.bounds import hints_of
from ..recipe.errors import RecipeError
from ..recipe.outline import Unreadable, dataclass_of, outline
from ..recipe.reading import problem_of, problems
from ..recipe.yaml_files import YamlFile, read_yaml
from ..runtime.shipped import launch_file
from ..runtime.trackers import check_tracker
from .expand import expand
from .steps import EXECUTORS, KEYS, KEYS_OF_A_PLAN, KEYS_OF_A_ROUND, PlanError, Step, faults, place_of, read_steps

PLAIN = {"name": str, "seed": int, "launch": str | None, "executor": str, "accept_older": bool, "tracker": str}
Hints = dict[str, Any]

# options that name sources of data
SOURCES = ("datasets", "eval_datasets", "texts", "newest", "search_datasets", "gold")


def problems_of_plan(file: YamlFile, recipes: dict[str, Path]) -> list[str]:
    """What is wrong with a plan and with the options it sets.

    Args:
        recipes: scripts by name.
    """
    found = [
        f"{file.where(key)}: unknown{_nearest(key, KEYS_OF_A_PLAN)}"
        for key in file.content
        if key not in KEYS_OF_A_PLAN
    ]
    own = {key: value for key, value in file.content.items() if key in PLAIN}
    found += filter(None, (problem_of(key, value, PLAIN, file.where) for key, value in own.items()))
    if isinstance(executor := file.content.get("executor"), str) and executor not in EXECUTORS:
        expected = _nearest(executor, EXECUTORS) or f", expected one of {', '.join(EXECUTORS)}"
        found.append(f"{file.where('executor')}: found {executor!r}{expected}")
    try:
        check_tracker(file.content.get("tracker") or "none")
    except (ValueError, TypeError) as error:
        found.append(f"{file.where('tracker')}: {error}")
    found += map(str, _faults_of_steps(file))
    try:
        steps = expand(read_steps(file, None))
    except PlanError as error:  # a key as above, or what a reference or a block lacks
        return list(dict.fromkeys([*found, str(error)]))
    hints = _Hints({name: path for name, path in recipes.items() if name != "rounds"})
    for step in steps:
        found += _problems_of_step(step, hints)
    if isinstance(launch := file.content.get("launch"), str) and launch_file(launch) is None:
        found.append(f"{file.where('launch')}: found no file {launch!r}, expected a configuration of accelerate")
    return list(dict.fromkeys(found))


def _faults_of_steps(file: YamlFile) -> Iterator[PlanError]:
    rows = file.content.get("steps")
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        keys = ("steps", number)
        if not (isinstance(row, dict) and "repeat" in row):
            yield from faults(partial(place_of, file, keys, f"step {number + 1}"), row, KEYS)
        elif isinstance(row["repeat"], dict) and isinstance(row["repeat"].get("steps"), list):
            for inner, each in enumerate(row["repeat"]["steps"]):
                at = (*keys, "repeat", "steps", inner)
                yield from faults(partial(place_of, file, at, f"step {inner + 1} of repeat"), each, KEYS_OF_A_ROUND)


class _Hints:
    """The types of a recipe's options; None where its script is not understood."""

    def __init__(self, recipes: dict[str, Path]):
        self.recipes = recipes
        self._known: dict[str, Hints | None] = {}

    def __getitem__(self, recipe: str) -> Hints | None:
        if recipe not in self._known:
            try:
                self._known[recipe] = hints_of(outline(self.recipes[recipe]).types)
            except Unreadable:
                self._known[recipe] = None
        return self._known[recipe]


def _problems_of_step(step: Step, hints: _Hints) -> Iterator[str]:
    if step.recipe not in hints.recipes:
        near = _nearest(step.recipe, hints.recipes)
        yield f"{step.where('recipe')}: found {step.recipe!r}{near or ', expected one of ' + ', '.join(hints.recipes)}"
        return
    if step.launch is not None and launch_file(step.launch) is None:
        yield f"{step.where('launch')}: found no file {step.launch!r}, expected a configuration of accelerate"
    known = hints[step.recipe]
    if step.config:
        path = step.file.path.parent / step.config
        try:
            stage = read_yaml(path)
        except RecipeError as error:
            yield f"{step.where('config')}: {error}"
        else:
            yield from problems(stage, known) if known is not None else ()
            yield from problems_of_sources(stage.content, stage.where)
    yield from problems_of_sources(step.set, step.where_option)
    for key, value in step.set.items() if known is not None else ():
        if key == "output_dir":
            yield f"{step.where_option(key)}: found one, expected none; a step writes into the run's"
        elif problem := problem_of(key, value, known, step.where_option):
            yield problem


def problems_of_sources(options: Mapping[str, Any], where: Callable[..., str]) -> Iterator[str]:
    """Keys that no source of data has; values, rows and files are left to the recipe."""
    known = [field.name for field in fields(dataclass_of("llama_align.data.sources", "DataSource"))]
    for option in SOURCES:
        rows = options.get(option)
        for place, row in enumerate(rows if isinstance(rows, list) else ()):
            for key in (key for key in (row if isinstance(row, dict) else ()) if key not in known):
                hint = _nearest(key, known) or f", a source has {', '.join(known)}"
                yield f"{where(option, place, key)}: unknown key of a source{hint}"


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def recipe_of(path: Path, recipes: Iterable[str]) -> str | None:
    """The recipe whose options a YAML has: what a plan in its folder says, else what its name begins with; None where
    neither says it."""
    names = list(recipes)
    for beside in sorted(path.resolve().parent.glob("*.yaml")):
        for recipe, config in _steps_of(beside):
            if config == path.name and recipe in names:
                return recipe
    fitting = [name for name in names if path.stem == name or path.stem.startswith((f"{name}_", f"{name}-"))]
    return max(fitting, key=len, default=None)


def _steps_of(path: Path) -> Iterator[tuple[str, str]]:
    """Recipe and YAML of every step of a plan; nothing of another file."""
    try:
        rows = read_yaml(path).content.get("steps")
    except RecipeError:
        return
    for row in rows if isinstance(rows, list) else ():
        block = row.get("repeat") if isinstance(row, dict) else None
        inner = block.get("steps") if isinstance(block, dict) else None
        for step in inner if isinstance(inner, list) else [row]:
            if isinstance(step, dict):
                yield step.get("recipe"), step.get("config")
