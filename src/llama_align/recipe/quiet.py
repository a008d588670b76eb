"""What a recipe shows on a terminal: one line while it works, what it says itself, and a table at the end.

All that libraries print goes to `output.log` in its folder.
"""

import io
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from ..chat import ContractError
from ..data import RecordError, SourceError
from ..runtime.board import Board, Line
from ..runtime.output import heard_by, into, tail
from ..runtime.progress import SPEED, Task, clock, shower, shown_by
from .errors import GateShut, RecipeError, StoppedEarly

LOG = "output.log"
MISTAKES = (RecipeError, RecordError, SourceError, ContractError)  # which say all there is to say
# what the line of a training run says, of what its trainer logs
FACTS = {"loss": "loss", "accuracy": "accuracy", "rewards/accuracies": "accuracy", "reward": "reward", "kl": "KL"}


def is_main() -> bool:
    """Whether this process speaks for its launch."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def quiet(folder: str | Path, name: str) -> Iterator[None]:
    """Has what is printed go to the log in a folder, and what is said and how far it is to the terminal.

    A mistake of a user's leaves no new log. Of a crash the end of the log and its place are shown before it is raised.
    """
    log, end = Path(folder) / LOG, None
    new = [path for path in (log, log.parent) if not path.exists()]
    try:
        with into(log) as (out, _):
            try:
                with _told(out if is_main() else io.StringIO(), name, folder):
                    yield
            except (ValueError, OSError, ImportError, StoppedEarly, GateShut):  # said in one line by `exit_code`
                raise
            except Exception:
                end = tail(log)
                traceback.print_exc()
                raise
    except MISTAKES:
        with suppress(OSError):  # a folder in which there is more
            for path in new:
                path.rmdir() if path.is_dir() else path.unlink()
        raise
    except Exception:
        if end is not None:
            print(f"{end}\n\n{name} crashed; all that was printed is in {log}", file=sys.stderr)
        raise


@contextmanager
def _told(out: TextIO, name: str, folder: str | Path) -> Iterator[None]:
    board, began = Board(out), time.monotonic()
    line = Line(board, name)
    with board, heard_by(board.say), shown_by(line):
        yield
        if board.live:
            board.say(f"{name}: done in {clock(time.monotonic() - began)}{line.numbers}; {folder}")


def shown(folder: str | Path | None, name: str, verbose: bool):
    """`quiet`, or nothing: where all is asked for, nothing has a folder, or a manager keeps the log."""
    return nullcontext() if verbose or folder is None or shower() is not None else quiet(folder, name)


class Followed(TrainerCallback):
    """Tells how far a training run is, and prints what it logs, where somebody shows it otherwise than Trainer."""

    def __init__(self):
        self._task = None

    def on_train_begin(self, args, state, control, **_):
        self._task = Task(state.max_steps, "step", state.is_world_process_zero, state.global_step)
        self._task.__enter__()

    def on_step_end(self, args, state, control, **_):
        self._task.at(state.global_step)

    def on_log(self, args, state, control, logs=None, **_):
        if not state.is_world_process_zero:
            return
        print(logs, flush=True)
        found = {FACTS[key]: logs[key] for key in FACTS if isinstance(logs.get(key), float)}
        if self._task and found:
            self._task.at(state.global_step, **found, **({SPEED: logs[SPEED]} if SPEED in logs else {}))

    def on_train_end(self, args, state, control, **_):
        self._task.__exit__()
        self._task = None


def follow(trainer) -> None:
    """Puts `Followed` in the place of Trainer's own bar, unless nobody shows it or bars are off (`disable_tqdm`)."""
    from transformers import trainer as trainer_module  # seconds to import, and here already

    if shower() is None or trainer.args.disable_tqdm:
        return
    for kind in (trainer_module.DEFAULT_PROGRESS_CALLBACK, ProgressCallback, PrinterCallback):  # a notebook has its own
        trainer.remove_callback(kind)
    trainer.add_callback(Followed())
