"""What a finished run leaves in its directory: the model, `log.jsonl`, `metrics.json`, pictures and the model card.

Knows the files of docs/design.md ("Steps, files and identity"); knows nothing of losses or data.
"""

import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..data import write_jsonl
from ..models.tensor_files import retype
from ..publish.made import MADE, RECIPES, Made, RunFacts, auto_of, history, joined, started_from
from ..runtime.files import write_json, write_text
from ..runtime.identity import ADAPTER
from .reading import config_path, named
from .yaml_files import read_yaml

_started: tuple[str, dict] | None = None  # command and settings
TIMING_KEYS = ("runtime", "per_second", "step_time", "total_flos", "epoch_time", "mfu", "preparation_time")


def finish(
    trainer,
    metrics: dict | None = None,
    data: dict[str, list[dict]] | None = None,
    pictures: dict | None = None,
    dtypes: dict[str, str | None] | None = None,
    saved: bool = False,
) -> None:
    """Saves model and tokenizer, `log.jsonl`, `metrics.json` and the model card.

    Numbers that depend on the clock stay out of the first two.

    Args:
        data: sources by kind of record, for the card. pictures: SVG files by title, for the card. dtypes: type of the
            whole weights in each folder, `"."` or one below; None: as they were trained. saved: the model is already.
    """
    if not saved:
        trainer.save_model(trainer.args.output_dir)
    if not trainer.is_world_process_zero():
        return
    output = Path(trainer.args.output_dir)
    shutil.rmtree(output / "ref", ignore_errors=True)  # TRL's reference, a copy of an adapter before it was trained
    for folder, dtype in (dtypes or {}).items():
        if dtype and any((output / folder).glob("model*.safetensors")):
            retype(output / folder, getattr(torch, dtype))
    for title, picture in (pictures or {}).items():
        write_text(output / f"{title}.svg", picture)
    # in one order: a row that was in a checkpoint comes back sorted
    rows = [{k: _finite(row[k]) for k in sorted(row) if not is_timing(k)} for row in trainer.state.log_history]
    write_jsonl(output / "log.jsonl", rows)
    losses = [row["loss"] for row in rows if "loss" in row]
    final = {"steps": trainer.state.global_step, "final_loss": losses[-1] if losses else None} | (metrics or {})
    final = _finite(final)
    write_json(output / "metrics.json", final)
    trainer.facts = RunFacts(
        command=_command(),
        data={kind: [str(source.get("path", source)) for source in sources] for kind, sources in (data or {}).items()},
        metrics=final,
        pictures={title: f"{title}.svg" for title in pictures or {}},
        settings=_settings(),
    )
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        print(f"published {trainer.push_to_hub()}", flush=True)


def write_made(output_dir: str, stage: str, starts: list[str], metrics: dict) -> None:
    """Writes `recipe.json` beside a checkpoint that a recipe made from others without a trainer.

    Args:
        stage: the recipe, as `publish.made.RECIPES` has it. starts: the checkpoints.
    """
    folder = Path(output_dir)
    earlier, origin = joined(history(started_from(start)[1]) for start in starts)
    made = Made(
        what=RECIPES[stage][0],
        stage=stage,
        base=", ".join(starts),
        auto=auto_of(folder),
        tags=["llama-align", stage, *(["adapter"] if (folder / ADAPTER).is_file() else [])],
        facts=RunFacts(command=_command(), metrics=metrics, settings=_settings()),
        earlier=earlier,
        origin=origin,
    )
    made.write(folder)


def hand_on(source: str, output_dir: str, stage: str) -> None:
    """Writes what is known of where a checkpoint is from beside it in another form, unless that was copied along."""
    if (Path(output_dir) / MADE).is_file():
        return
    earlier, origin = history(started_from(source)[1])
    if earlier or (origin and origin.card):
        write_made(output_dir, stage, [source], {})


@contextmanager
def started_as(command: str, settings: dict) -> Iterator[None]:
    """Has what is made meanwhile say that it was made by this, instead of by the command line of this process."""
    global _started
    before, _started = _started, (command, settings)
    try:
        yield
    finally:
        _started = before


@contextmanager
def started_with(stages: Sequence[object]) -> Iterator[None]:
    """Has what is made meanwhile say that this process's command line made it.

    Args:
        stages: its dataclasses, whose values those options have that the command line names beside the YAML.
    """
    path, rest = config_path(sys.argv[1:])
    settings = dict(read_yaml(path).content) if path else {}
    given = named(rest)
    for stage in stages:  # of an enumeration its value, as a YAML has it
        settings |= {n: getattr(value, "value", value) for n, value in vars(stage).items() if n in given}
    with started_as(_command(), settings):
        yield


def _settings() -> dict:
    """The options of this run, as of one that was never cut off."""
    settings = _started[1] if _started else {}
    return {name: value for name, value in settings.items() if name != "resume_from_checkpoint"}


def _command() -> str:
    """The command line of this run: the recipe and its options, and in how many processes.

    The launch configuration is missing: accelerate tells its processes neither `--config_file` nor its other options.
    """
    if _started is not None:
        return _started[0]
    if Path(sys.argv[0]).name == "llama-align":
        return shlex.join(["llama-align", *sys.argv[1:]])
    processes = int(os.environ.get("WORLD_SIZE", 1))
    launcher = ["accelerate", "launch", "--num_processes", str(processes)] if processes > 1 else ["python"]
    script = Path(sys.argv[0])
    shown = f"recipes/{script.name}" if script.is_absolute() and script.parent.name == "recipes" else sys.argv[0]
    return shlex.join([*launcher, shown, *sys.argv[1:]])


def _finite(value):
    # JSON has no NaN, and a loss that is none must not cost the run its files
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_timing(key: str) -> bool:
    return any(part in key for part in TIMING_KEYS)
