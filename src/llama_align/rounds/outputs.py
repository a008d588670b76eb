"""What a finished step left in its folder, and whether it is still there as it was.

Left out, since they may change or go without harm: what the manager itself writes, checkpoints, caches and logs.
"""

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..recipe import STOPPED, WAITS, RecipeError
from ..runtime.identity import settings_digest
from ..runtime.manifest import changed, described, is_manifest

MARKER = "step.json"
# names in a step's folder; of a folder, all that is in it
LEFT_OUT = (
    *(MARKER, "config.yaml", "output.log", STOPPED, WAITS),
    *("*.sbatch", "slurm.json", "slurm.log", "task.json", "parts"),  # of its job
    *("checkpoint-*", "runs", "tracking"),  # to go on from, and what trackers wrote
    *("shards", "scores", "reference-*.arrow"),  # made again where they are missing; runs may share the scores
    "tokens",  # as these
    "people",  # a batch, whose log may still be looked at and whose preferences are among the outputs
    *(".*", "*.part", "__pycache__"),
)


def outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Sizes, times and digests of a step's outputs."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = (name for name in names if not any(fnmatch(name.parts[0], rule) for rule in LEFT_OUT))
    return described(folder, (name.as_posix() for name in kept))


def read_marker(folder: Path) -> dict[str, Any] | None:
    """What `step.json` says; None where there is none.

    Raises:
        RecipeError: a file of another kind.
    """
    path = folder / MARKER
    if not path.is_file():
        return None
    cure = "remove it to run the step again"
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: found no readable step record ({error}); {cure}") from error
    if not isinstance(found, dict) or not isinstance(found.get("identity"), str):
        what = "no identity" if isinstance(found, dict) else type(found).__name__
        raise RecipeError(f"{path}: found {what}, expected an object with the identity of a step; {cure}")
    if "outputs" in found and not is_manifest(found["outputs"]):
        raise RecipeError(f"{path}, field 'outputs': found no sizes, times and digests of files; {cure}")
    return found


def alarms(folder: Path) -> list[str]:
    """What a finished step's recipe warned of: the texts under `alarms` in its metrics.json."""
    try:
        found = json.loads((folder / "metrics.json").read_text("utf-8"))["alarms"]
    except (OSError, ValueError, KeyError, TypeError):  # none, or a recipe's own table of another kind
        return []
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []


def outputs_digest(folder: Path) -> str | None:
    """Digest of what a finished step left, whenever it was written; None where its marker does not say."""
    found = (read_marker(folder) or {}).get("outputs")
    return None if found is None else settings_digest({name: row["sha256"] for name, row in found.items()})


def check_inputs(step: str, folder: Path, inputs: dict[str, Path]) -> None:
    """Raises RecipeError where a finished step was made from other outputs of the steps it refers to than are there."""
    used = (read_marker(folder) or {}).get("inputs")
    for name, digest in used.items() if isinstance(used, dict) else ():
        if name in inputs and digest is not None and outputs_digest(inputs[name]) not in (None, digest):
            raise RecipeError(
                f"step {step!r} is finished, but step {name!r}, which it was made from, has been run again since and "
                f"left something else. Remove {folder} to run the step again"
            )


def check_outputs(step: str, folder: Path, content: bool = False) -> str | None:
    """A note where a finished step's outputs cannot be compared, as those of an older version; None otherwise.

    Args:
        content: compare digests even where sizes and times are the same.

    Raises:
        RecipeError: an output is missing or has changed.
    """
    marker = read_marker(folder)
    if marker is None or "outputs" not in marker:
        return f"{folder / MARKER} has no digests of its outputs, which are taken as they are"
    if problem := changed(folder, marker["outputs"], content):
        raise RecipeError(
            f"step {step!r} is finished, but its outputs have changed: {problem}. Put the file back, or remove "
            f"{folder / MARKER} to run the step again"
        )
    return None
