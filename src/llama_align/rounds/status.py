"""How a run stands, without running anything: what is done, what will be run and why."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..recipe import WAITS
from ..recipe.bounds import shown
from ..runtime import progress
from ..runtime.overview import read_overview
from . import slurm
from .display import PROGRESS
from .lease import holder
from .manager import Run
from .outputs import read_marker
from .references import resolve
from .steps import Step

FOLDER = re.compile(r'(?:[^"]*/)?([A-Za-z0-9_-]+)-[0-9a-f]{10}(?=["/])')  # a step's, in a configuration as JSON


@dataclass(frozen=True)
class Standing:
    """One step.

    state: done, running, stopped, failed, submitted or waiting. why: why it will be run, or how far it is. size: bytes
    it left.
    """

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
    held = holder(run.directory) is not None
    known = slurm.jobs({name: folder for name, folder in run.folders.items() if not run.finished(name)})
    rows = ((step, said.get(run.folders[step.name].name), known.get(step.name)) for step in run.plan.steps)
    return [_standing(run, step, state, held, job) for step, state, job in rows]


def _standing(run: Run, step: Step, said: str | None, held: bool, job: slurm.Job | None) -> Standing:
    if run.finished(step.name):
        marker = read_marker(run.folders[step.name])
        kept = marker.get("outputs")
        size = None if kept is None else sum(row["size"] for row in kept.values())
        return Standing(step.name, step.recipe, "done", "", marker.get("seconds"), size)
    if job is not None and not (job.is_over and (run.folders[step.name] / WAITS).is_file()):
        return _of_job(step, job)
    if said == "running":
        if held:
            told = progress.read(run.folders[step.name] / PROGRESS)
            return Standing(step.name, step.recipe, "running", ", ".join(told.words()) if told else "")
        return Standing(step.name, step.recipe, "stopped", "goes on where it was")  # killed, it could not say so
    if said == "open" or job is not None:
        return Standing(step.name, step.recipe, "waiting", f"{_people(run, step)}; goes on when the batch is full")
    if said in ("stopped", "failed"):
        return Standing(step.name, step.recipe, said, "goes on where it was")
    return Standing(step.name, step.recipe, "waiting", _why(run, step))


def _people(run: Run, step: Step) -> str:
    """How far people are whom a step waits for, as it or what serves them has told last."""
    try:
        found = json.loads((run.folders[step.name] / WAITS).read_text("utf-8"))
        return f"{found['done']} of {found['of']} by {found['by']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "by people"


def _of_job(step: Step, job: slurm.Job) -> Standing:
    said = f"job {job.number} of Slurm: {job.state or 'neither squeue nor sacct knows it'}"
    if job.is_over:
        return Standing(step.name, step.recipe, "failed", f"{said}; the same command submits it again")
    reason = f" ({job.reason})" if job.waits else ""
    return Standing(step.name, step.recipe, "running" if job.works else "submitted", said + reason)


def _why(run: Run, step: Step) -> str:
    """What differs from how the step was run last; nothing where it never was."""
    before = next(iter(run.earlier(step.name)), None)
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
    marker, identity = read_marker(before), run.identities[step.name]
    said += [f"{text} {how}" for text, how in _files(marker.get("files"), identity.files)]
    if not said and marker.get("code") not in (None, identity.code):
        said = ["its code is another (accept_older: true takes what older code has made)"]
    return "; ".join(said) or "its precision or the version is another"


def _files(old: Any, new: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Files that a step named then or names now and that are not as they were."""
    for text, digest in old.items() if isinstance(old, dict) else ():
        if text not in new:
            yield text, "is gone"
        elif new[text] != digest:
            yield text, "has changed"


def _plain(value: Any) -> Any:
    """A value with steps named, whatever their digests and wherever the run lies."""
    return FOLDER.sub(r"{\1}", json.dumps(value, sort_keys=True))


def _overview(directory: Path) -> dict[str, str]:
    try:
        return {row["directory"]: row["status"] for row in read_overview(directory)["steps"]}
    except (OSError, ValueError):  # none yet, or another's: the steps' own records decide
        return {}
