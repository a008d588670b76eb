"""Curves of a run in TensorBoard, trackio or wandb: on this machine and offline, whatever the libraries do by default.

A curve has a project, a group and a name. Within a run of rounds they are the programme, the round and the step with
its digest, read off `run.json` beside the step's folder, so that a step that is resumed goes on with its curve.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from .overview import read_overview

TRACKERS = ("none", "trackio", "tensorboard", "wandb")
CHOICE = "LLAMA_ALIGN_TRACKER"  # environment: the tracker where no option names one
FOLDER = "tracking"  # in a run's folder, or beside a checkpoint
# with these trackio would log to a Space or a server, wandb over the network
REFUSED = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID")


@dataclass(frozen=True)
class Curve:
    """Where numbers go: `folder` holds the tracker's files."""

    project: str
    group: str
    name: str
    folder: Path


def curve_of(output_dir: str | Path) -> Curve:
    """The curve of a run that writes into this folder."""
    folder = Path(output_dir).absolute()
    try:
        run = read_overview(folder.parent)
        row = next(row for row in run["steps"] if row["directory"] == folder.name)
    except (OSError, ValueError, StopIteration):
        return Curve("llama-align", "", folder.name, folder / FOLDER)
    group = f"round-{row['round']}" if row.get("round") else "before"
    return Curve(str(run["name"]), group, folder.name, folder.parent / FOLDER)


class Tracker(Protocol):
    """Takes numbers by name at a step; `close` puts them on the disk."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def close(self) -> None:
        """Ends the curve, which a later `open_tracker` goes on with."""


def check_tracker(name: str) -> None:
    """Raises ValueError for a tracker that is not known, not installed, or that the environment sends elsewhere."""
    if name not in TRACKERS:
        raise ValueError(f"tracker: found {name!r}, expected one of {', '.join(TRACKERS)}")
    found = None if name == "none" else find_spec(name)
    # a folder of that name here, such as wandb leaves one, is found without a file
    if name != "none" and (found is None or found.origin is None):
        raise ValueError(f"tracker: found {name}, which is not installed; pip install {name}, or 'llama_align[{name}]'")
    for variable in REFUSED if name == "trackio" else ():
        if os.environ.get(variable):
            raise ValueError(f"{variable}: found it in the environment, expected none; trackers log on this machine")


def open_tracker(kind: str, curve: Curve, start: int = 0) -> Tracker | None:
    """A tracker that goes on with a curve behind step `start`; None for `none`.

    Raises:
        ValueError: see `check_tracker`.
    """
    check_tracker(kind)
    if kind == "none":
        return None
    curve.folder.mkdir(parents=True, exist_ok=True)
    return {"tensorboard": _TensorBoard, "trackio": _Trackio, "wandb": _Wandb}[kind](curve, start)


class _TensorBoard:
    def __init__(self, curve: Curve, start: int):
        from torch.utils.tensorboard import SummaryWriter

        folder = curve.folder / curve.group / curve.name
        # what was logged behind the checkpoint that a run goes on from is logged again
        self._writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    def __init__(self, curve: Curve, start: int):
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        _keep_in(Path(os.environ.get("TRACKIO_DIR", curve.folder)))
        self._trackio = trackio
        last = SQLiteStorage.get_max_step_for_run(curve.project, curve.name)
        self._last = -1 if last is None else last
        quiet = {"auto_log_gpu": False, "auto_log_cpu": False, "embed": False}
        trackio.init(curve.project, name=curve.name, group=curve.group or None, resume="allow", private=True, **quiet)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._last:  # a step that is made again has the same numbers
            self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


def _keep_in(folder: Path) -> None:
    """Where trackio writes: it reads TRACKIO_DIR when it is imported, which TRL does before a run has a folder."""
    for module in [each for name, each in sys.modules.items() if name.partition(".")[0] == "trackio"]:
        for name, place in {"TRACKIO_DIR": "", "MEDIA_DIR": "media", "ARTIFACTS_DIR": "artifacts"}.items():
            if hasattr(module, name):
                setattr(module, name, folder / place)


class _Wandb:
    def __init__(self, curve: Curve, start: int):
        import wandb

        mode = os.environ.get("WANDB_MODE", "offline")
        about = {"project": curve.project, "group": curve.group or None, "name": curve.name, "id": curve.name}
        settings = wandb.Settings(silent=True, disable_git=True, save_code=False, x_disable_stats=True, console="off")
        self._run = wandb.init(**about, resume="allow", mode=mode, dir=str(curve.folder), settings=settings)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def numbers(values: Mapping, prefix: str = "") -> dict[str, float]:
    """The finite numbers among nested values, by path."""
    found = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found


def track_round(kind: str, directory: Path, step: str) -> None:
    """Logs what a step of a round left in its metrics.json as one point of the series over rounds.

    A curve `rounds` of the programme has `step/metric` at every round. Steps outside of rounds have no part in it.
    """
    if kind == "none":
        return
    try:
        run = read_overview(directory)
        row = next(row for row in run["steps"] if row["name"] == step and row.get("round"))
        found = json.loads((directory / row["directory"] / "metrics.json").read_text("utf-8"))
    except (OSError, ValueError, StopIteration):  # of no round, or a recipe that leaves no metrics
        return
    parts = [*(found.pop("candidates", None) or []), *(found.pop("rows", None) or [])]
    table = {str(part.get("name", part.get("row"))): part for part in parts}
    found |= {"chosen": table.get(found["chosen"], {})} if "chosen" in found else table
    tracker = open_tracker(kind, Curve(str(run["name"]), "rounds", "rounds", directory / FOLDER))
    tracker.log(row["round"], numbers(found, f"{row['of']}/"))
    tracker.close()
