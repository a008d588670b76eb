"""A recipe's options from its YAML and command line, and how a recipe begins and ends.

Knows nothing of checkpoints, losses or data.
"""

import difflib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from accelerate import DistributedType, PartialState
from trl import TrlParser

from ..chat import ContractError
from ..data import RecordError, SourceError
from ..runtime.lineage import answer_to_manager
from .errors import STOPPED_EARLY, TRACEBACK, RecipeError, StoppedEarly
from .launching import launch_defaults
from .unused import refuse_unused

INTERRUPTED = 128 + signal.SIGINT  # as a shell has it


def parse(dataclass_types: Iterable[type], args: list[str] | None = None, description: str | None = None) -> tuple:
    """Dataclasses from `--config file.yaml` and `--key value` overrides.

    Raises:
        RecipeError: a missing or malformed file, a key no dataclass has (with the nearest known one), or values that a
            dataclass refuses.
    """
    types = tuple(dataclass_types)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        before_a_group()
    # TrlParser reads "--config FILE" only and would silently leave the file out of "--config=FILE"
    args = [part for arg in (sys.argv[1:] if args is None else args) for part in _split_config(arg)]
    parser = TrlParser(types, description=description, formatter_class=_help_formatter())
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for the options below")
    known = {name for kind in types for name, field in kind.__dataclass_fields__.items() if field.init}
    given = {part[2:].split("=")[0] for part in args if part.startswith("--")}
    if "--config" in args:
        given |= _check_config(Path(args[args.index("--config") + 1 :][0] if args[-1] != "--config" else ""), known)
    # defaults that depend on the machine and the launch; a value in the YAML wins
    parser.set_defaults_with_config(**{key: value for key, value in launch_defaults().items() if key in known})
    try:
        *stages, rest = parser.parse_args_and_config(args, return_remaining_strings=True)
    except ValueError as error:  # options that contradict each other, from a dataclass's __post_init__
        raise RecipeError(f"options: {error}") from error
    if rest:
        raise RecipeError(f"command line: found {' '.join(rest)}, expected only the options --help lists")
    refuse_unused(stages, given)
    _check_group()
    # parse_args_into_dataclasses appends a namespace with --config
    return tuple(stages[: len(types)])


def _check_group() -> None:
    state = PartialState._shared_state
    if state.get("num_processes", 1) > 1 and state["distributed_type"] == DistributedType.NO:
        raise RecipeError(
            f"use_cpu: found false in {state['num_processes']} processes without an accelerator, expected true; each "
            "would train a model of its own"
        )


def _split_config(arg: str) -> list[str]:
    return arg.split("=", 1) if arg.startswith("--config=") else [arg]


def _help_formatter():
    import argparse

    return argparse.ArgumentDefaultsHelpFormatter


def _check_config(path: Path, known: set[str]) -> set[str]:
    """The keys of a YAML, all of them known."""
    if not path.is_file():
        raise RecipeError(f"--config: found no file {str(path)!r}, expected a YAML file")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise RecipeError(f"{path}: found {type(config).__name__}, expected a mapping of options")
    for key in config:
        if key not in known and key != "env":
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f", did you mean {near[0]!r}?" if near else "; --help lists the options"
            raise RecipeError(f"{path}, field {key!r}: unknown option{hint}")
    return set(config)


def run(main, *dataclass_types: type, doc: str | None = None) -> None:
    """Parses and runs a recipe's `main`, and ends the process where it did not end well.

    A user's mistake ends in one line on stderr and exit code 2, an interrupt in one that says how to go on and 130, and
    work that was asked to stop and saved what it had in `STOPPED_EARLY`.
    """
    answer_to_manager()
    try:
        code = _exit_code(main, dataclass_types, doc)
    finally:
        leave_group()
    if code:
        sys.exit(code)


def _exit_code(main, types: tuple[type, ...], doc: str | None) -> int:
    try:
        main(*parse(types, description=doc))
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get(TRACEBACK):
            raise
        # ours say all there is to say; a library's may need the place it was raised at
        ours = isinstance(error, RecipeError | RecordError | SourceError | ContractError)
        hint = "" if ours else f" (the environment variable {TRACEBACK}=1 shows where)"
        print(f"error: {error}{hint}", file=sys.stderr)
        return 2
    except StoppedEarly as stop:
        _say(stop)
        return STOPPED_EARLY
    except KeyboardInterrupt as interrupt:
        resumes = any("resume_from_checkpoint" in kind.__dataclass_fields__ for kind in types)
        how = ", with resume_from_checkpoint: last from the newest checkpoint" if resumes else ""
        _say(f"interrupted; {str(interrupt) or f'the same command goes on{how}'}")
        return INTERRUPTED
    return 0


def _say(line: object) -> None:
    if os.environ.get("RANK", "0") == "0":  # once for all processes
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
