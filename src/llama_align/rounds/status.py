"""How a run stands, without running anything: what is done, what will be run and why."""

import fcntl
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..recipe.bounds import shown
from .manager import Run
from .outputs import MARKER, read_marker
from .references import resolve
from .steps import Step

FOLDER = re.compile(r'(?:[^"]*/)?([A-Za-z0-9_-]+)-[0-9a-f]{10}(?=["/])')  # a step's, in a configuration as JSON


@dataclass(frozen=True)
class Standing:
    """One step. state: done, running, stopped, failed or waiting. why: why it will be run. size: bytes it left."""

    name: str
    recipe: str
    state: str
    why: str = ""
    seconds: float | None = None
    size: int | None = None


def standings(run: Run) -> list[Standing]:
    """Every step of a plan in order, against what lies in the run's directory.

    Raises:
        RecipeError: a `step.json` that is not readable.
    """
    said = _overview(run.directory)
    held = _held(run.directory)
    return [_standing(run, step, said.get(run.folders[step.name].name), held) for step in run.plan.steps]


def _standing(run: Run, step: Step, said: str | None, held: bool) -> Standing:
    if run.finished(step.name):
        marker = read_marker(run.folders[step.name])
        kept = marker.get("outputs")
        size = None if kept is None else sum(row["size"] for row in kept.values())
        return Standing(step.name, step.recipe, "done", "", marker.get("seconds"), size)
    if said == "running":
        # what was killed could not say so
        return Standing(
            step.name, step.recipe, "running" if held else "stopped", "" if held else "goes on where it was"
        )
    if said in ("stopped", "failed"):
        return Standing(step.name, step.recipe, said, "goes on where it was")
    return Standing(step.name, step.recipe, "waiting", _why(run, step))


def _why(run: Run, step: Step) -> str:
    """What differs from how the step was run last; nothing where it never was."""
    others = (path.parent for path in run.directory.glob(f"{step.name}-{'[0-9a-f]' * 10}/{MARKER}"))
    before = max(others, key=lambda folder: (folder / MARKER).stat().st_mtime, default=None)
    if before is None:
        return ""
    try:
        old = yaml.safe_load((before / "config.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        old = None
    if not isinstance(old, dict):
        return f"differs from {before.name}"
    new = resolve(run.plan.configs[step.name], {name: str(path) for name, path in run.folders.items()})
    options = [key for key in dict.fromkeys([*old, *new]) if key not in ("output_dir", "resume_from_checkpoint")]
    said = [
        f"{key} {shown(new.get(key))} instead of {shown(old.get(key))}"
        for key in options
        if _plain(old.get(key)) != _plain(new.get(key))
    ]
    text = json.dumps(old)
    said += [f"{name} is another" for name in run.plan.inputs(step.name) if run.folders[name].name not in text]
    return "; ".join(said) or "a file it names, its precision or the version is another"


def _plain(value: Any) -> Any:
    """A value with steps named, whatever their digests and wherever the run lies."""
    return FOLDER.sub(r"{\1}", json.dumps(value, sort_keys=True))


def _overview(directory: Path) -> dict[str, str]:
    try:
        rows = json.loads((directory / "run.json").read_text("utf-8"))["steps"]
        return {row["directory"]: row["status"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or another's: the steps' own records decide
        return {}


def _held(directory: Path) -> bool:
    """Whether a manager is at work in a directory."""
    try:
        with (directory / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
