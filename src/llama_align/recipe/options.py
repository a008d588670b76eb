"""A recipe's options made of what its YAML and command line say, and how a recipe begins and ends.

Knows nothing of checkpoints, losses or data.
"""

import gc
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import get_scheduler

from ..runtime.files import remove_stale_parts
from ..runtime.lineage import answer_to_manager
from .errors import (
    GATE_SHUT,
    STOPPED_EARLY,
    TRACEBACK,
    WAITS_FOR_PEOPLE,
    GateShut,
    RecipeError,
    StoppedEarly,
    WaitsForPeople,
)
from .launching import launch_defaults
from .paths import expand_paths
from .quiet import MISTAKES, is_main, shown
from .reading import LONGEST, VERBOSE, read_command
from .unused import refuse_unused
from .yaml_files import shortened

INTERRUPTED = 128 + signal.SIGINT  # as a shell has it


def parse(
    dataclass_types: Iterable[type],
    args: list[str] | None = None,
    description: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> tuple:
    """Dataclasses from `--config file.yaml` and `--key value` overrides.

    Args:
        values: of options, as a file has them; they win over those of the file.

    Raises:
        RecipeError: a missing or malformed file, a key no dataclass has (with the nearest known one), a value of
            another type or out of `bounds.BOUNDS`, or values that a dataclass refuses.
    """
    types = tuple(dataclass_types)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        before_a_group()
    # defaults that depend on the machine and the launch; a value in the YAML wins
    command = read_command(types, args, description, launch_defaults(), values)
    try:
        stages = command.parser.parse_args_into_dataclasses(command.args, look_for_args_file=False)
    except (RecipeError, ImportError):  # the latter where what an option needs is not installed
        raise
    except Exception as error:  # options that contradict each other, from any library's __post_init__
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise RecipeError(f"options: {kind}{shortened(str(error), LONGEST)}") from error
    refuse_unused(stages, command.given)
    for stage in stages[: len(types)]:
        expand_paths(stage)
        _check_schedule(stage)
    _check_group()
    # parse_args_into_dataclasses appends a namespace with --config
    return tuple(stages[: len(types)])


def _check_schedule(stage: Any) -> None:
    """Raises RecipeError for arguments that a schedule of the learning rate does not take, before data is read."""
    if not getattr(stage, "lr_scheduler_kwargs", None):
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(stage.lr_scheduler_type, optimizer, 0, 10, dict(stage.lr_scheduler_kwargs))
    except Exception as error:  # whatever a number that is none runs into
        found = f"{stage.lr_scheduler_kwargs} with lr_scheduler_type {stage.lr_scheduler_type}"
        found = shortened(f"{found} ({type(error).__name__}: {error})", LONGEST)
        raise RecipeError(f"lr_scheduler_kwargs: found {found}, expected arguments of that schedule") from error


def _check_group() -> None:
    state = PartialState._shared_state
    if state.get("num_processes", 1) > 1 and state["distributed_type"] == DistributedType.NO:
        raise RecipeError(
            f"use_cpu: found false in {state['num_processes']} processes without an accelerator, expected true; each "
            "would train a model of its own"
        )


def run(main, *dataclass_types: type, doc: str | None = None) -> None:
    """Parses and runs a recipe's `main`, and ends the process where it did not end well.

    What libraries print goes to `output.log` in output_dir, unless `--verbose` is among the arguments or an option.

    A user's mistake ends in one line on stderr and exit code 2, an interrupt in one that says how to go on and 130, and
    work that was asked to stop and saved what it had in `STOPPED_EARLY`, what waits for people in `WAITS_FOR_PEOPLE`,
    and a gate that stayed shut in `GATE_SHUT`.
    """
    answer_to_manager()
    resumes = any("resume_from_checkpoint" in kind.__dataclass_fields__ for kind in dataclass_types)
    how = ", with resume_from_checkpoint: last from the newest checkpoint" if resumes else ""
    try:
        code = exit_code(lambda: _run(main, dataclass_types, doc), f"the same command goes on{how}")
    finally:
        leave_group()
    if code:
        sys.exit(code)


def _run(main, types: tuple[type, ...], doc: str | None) -> None:
    from ..report.terminal import say_measured  # with what draws pictures
    from .results import started_with  # with what writes cards

    with warnings.catch_warnings(record=True) as early:  # before it is known where they belong
        stages = parse(types, description=doc)
    # a recipe with an option of that name looks after its output itself
    verbose = VERBOSE in sys.argv or any(VERBOSE[2:] in kind.__dataclass_fields__ for kind in types)
    folder = next((stage.output_dir for stage in stages if hasattr(stage, "output_dir")), None)
    if folder and is_main():
        remove_stale_parts(Path(folder))  # of a run that was killed here while it wrote
    with shown(folder, Path(main.__code__.co_filename).stem, verbose):
        for one in early:
            sys.stderr.write(warnings.formatwarning(one.message, one.category, one.filename, one.lineno))
        with started_with(stages):
            main(*stages)
        if folder is not None and is_main():
            say_measured(Path(folder) / "metrics.json")


def exit_code(call: Callable[[], Any], goes_on: str = "the same command goes on") -> int:
    """Calls something and says in one line on stderr how it ended: with an exit code as in `run`.

    Args:
        goes_on: what an interrupt says that says nothing itself.
    """
    try:
        call()
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get(TRACEBACK):
            raise
        # ours say all there is to say; a library's may need the place it was raised at
        hint = "" if isinstance(error, MISTAKES) else f" (the environment variable {TRACEBACK}=1 shows where)"
        print(f"error: {error}{hint}", file=sys.stderr)
        return 2
    except StoppedEarly as stop:
        _say(stop)
        return WAITS_FOR_PEOPLE if isinstance(stop, WaitsForPeople) else STOPPED_EARLY
    except GateShut as shut:
        _say(shut)
        return GATE_SHUT
    except KeyboardInterrupt as interrupt:
        _say(f"interrupted; {str(interrupt) or goes_on}")
        return INTERRUPTED
    return 0


def _say(line: object) -> None:
    if is_main():  # once for all processes
        print(line, file=sys.stderr)


def before_a_group() -> None:
    """Imports what would keep a group for good, as the default of its functions, if it were imported after that."""
    for name in ("torch.distributed.nn.functional", "deepspeed.comm.torch"):
        with suppress(ImportError):
            importlib.import_module(name)


def leave_group() -> None:
    """Ends the group of processes and its threads, so that none aborts while Python ends.

    A group that nothing refers to joins its threads when it is destroyed. One that is kept leaves them running, and a
    thread that drops its last tensor while Python ends aborts.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if "deepspeed" in sys.modules:
        _end_engines()
    gc.collect()  # wrapped models, which stand in cycles
    torch.distributed.destroy_process_group()


def _end_engines() -> None:
    """Ends DeepSpeed's engines, which its hooks and tables keep together with their group."""
    from deepspeed import DeepSpeedEngine
    from deepspeed.utils import groups

    for engine in [found for found in gc.get_objects() if issubclass(type(found), DeepSpeedEngine)]:
        engine.destroy()
    groups._WORLD_GROUP = None


def one_process() -> None:
    """Raises RecipeError in a recipe that was launched in several processes, each of which would do all the work."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if processes > 1:
        raise RecipeError(f"launch: found {processes} processes, expected one; start this recipe with python")
