"""A recipe's options from its YAML and command line, and how a recipe begins and ends.

Knows nothing of checkpoints, losses or data.
"""

import difflib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from transformers import get_scheduler
from trl import TrlParser

from ..chat import ContractError
from ..data import RecordError, SourceError
from ..runtime.lineage import answer_to_manager
from .bounds import Misfit, fitting, hints_of
from .errors import STOPPED_EARLY, TRACEBACK, RecipeError, StoppedEarly
from .launching import launch_defaults
from .paths import expand_paths
from .unused import refuse_unused
from .yaml_files import YamlFile, field_name, read_yaml, shortened

LONGEST = 600  # characters of a library's complaint


class _Parser(TrlParser):
    """TRL's parser, which checks what a command line says before any dataclass is made of it."""

    def error(self, message):
        raise RecipeError(f"options: {shortened(message, LONGEST)}")

    def parse_known_args(self, args=None, namespace=None):
        defaults = {action.dest: action.default for action in self._actions}
        namespace, rest = super().parse_known_args(args, namespace)
        if rest:
            raise RecipeError(
                f"command line: found {shortened(' '.join(rest))}, expected only the options --help lists"
            )
        for name, hint in hints_of(self.dataclass_types).items():
            value = getattr(namespace, name)
            if value is not defaults[name] and value != defaults[name]:
                try:
                    fitting(name, value, hint)
                except Misfit as error:
                    raise RecipeError(f"command line, field {field_name((name, *error.keys))}: {error}") from error
        return namespace, rest


INTERRUPTED = 128 + signal.SIGINT  # as a shell has it


def parse(dataclass_types: Iterable[type], args: list[str] | None = None, description: str | None = None) -> tuple:
    """Dataclasses from `--config file.yaml` and `--key value` overrides.

    Raises:
        RecipeError: a missing or malformed file, a key no dataclass has (with the nearest known one), a value of
            another type or out of `bounds.BOUNDS`, or values that a dataclass refuses.
    """
    types = tuple(dataclass_types)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        before_a_group()
    # an abbreviation that a later option makes ambiguous would change what a command means
    parser = _Parser(types, description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for the options below")
    hints = hints_of(types)
    path, args = _config_path(sys.argv[1:] if args is None else args)
    given = {arg[2:].split("=")[0].replace("-", "_") for arg in args if arg.startswith("--")}
    file = None if path is None else read_yaml(path)
    # defaults that depend on the machine and the launch; a value in the YAML wins
    parser.set_defaults_with_config(**{key: value for key, value in launch_defaults().items() if key in hints})
    if file is not None:
        parser.set_defaults_with_config(**_values(file, hints))
    try:
        stages = parser.parse_args_into_dataclasses(args, look_for_args_file=False)
    except (RecipeError, ImportError):  # the latter where what an option needs is not installed
        raise
    except Exception as error:  # options that contradict each other, from any library's __post_init__
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise RecipeError(f"options: {kind}{shortened(str(error), LONGEST)}") from error
    refuse_unused(stages, given | ({*file.content} if file else set()))
    for stage in stages[: len(types)]:
        expand_paths(stage)
        _check_schedule(stage)
    _check_group()
    # parse_args_into_dataclasses appends a namespace with --config
    return tuple(stages[: len(types)])


def _config_path(args: list[str]) -> tuple[str | None, list[str]]:
    """The file of `--config FILE` or `--config=FILE`, and the other arguments."""
    parts = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    if parts.count("--config") > 1:
        raise RecipeError(f"--config: found {parts.count('--config')} of them, expected one file")
    if "--config" not in parts:
        return None, parts
    place = parts.index("--config")
    path = parts[place + 1] if place + 1 < len(parts) else ""
    if not os.path.isfile(path):
        raise RecipeError(f"--config: found no file {shortened(path)!r}, expected a YAML file")
    return path, parts[:place] + parts[place + 2 :]


def _values(file: YamlFile, hints: dict[str, Any]) -> dict[str, Any]:
    """The options in a file, each of the type and within the bounds of its name."""
    found = {}
    for key, value in file.content.items():
        if key == "env":
            raise RecipeError(
                f"{file.where(key)}: found variables of the environment, expected none; set them before the command, "
                "as libraries read them when they are imported"
            )
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            hint = f", did you mean {near[0]!r}?" if near else "; --help lists the options"
            raise RecipeError(f"{file.where(key)}: unknown option{hint}")
        try:
            found[key] = fitting(key, value, hints[key])
        except Misfit as error:
            raise RecipeError(f"{file.where(key, *error.keys)}: {error}") from error
    return found


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

    A user's mistake ends in one line on stderr and exit code 2, an interrupt in one that says how to go on and 130, and
    work that was asked to stop and saved what it had in `STOPPED_EARLY`.
    """
    answer_to_manager()
    resumes = any("resume_from_checkpoint" in kind.__dataclass_fields__ for kind in dataclass_types)
    how = ", with resume_from_checkpoint: last from the newest checkpoint" if resumes else ""
    try:
        code = exit_code(lambda: main(*parse(dataclass_types, description=doc)), f"the same command goes on{how}")
    finally:
        leave_group()
    if code:
        sys.exit(code)


def exit_code(call: Callable[[], Any], goes_on: str = "the same command goes on") -> int:
    """Calls something and says in one line on stderr how it ended: 0, 2, `STOPPED_EARLY` or 130, as in `run`.

    Args:
        goes_on: what an interrupt says that says nothing itself.
    """
    try:
        call()
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
        _say(f"interrupted; {str(interrupt) or goes_on}")
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
