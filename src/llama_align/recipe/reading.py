"""A recipe's YAML and command line against the fields of its dataclasses, before any dataclass is made of them.

Imports neither torch nor transformers, so that `--help` and a mistake do not wait for them.
"""

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl import TrlParser

from .bounds import Misfit, fitting, hints_of
from .errors import TRACEBACK, RecipeError
from .outline import Unreadable, outline
from .yaml_files import YamlFile, field_name, read_yaml, shortened

LONGEST = 600  # characters of a library's complaint
VERBOSE = "--verbose"
LIBRARIES = ("trl", "transformers")
SCRIPTS = ("dataset_name", "dataset_config", "dataset_train_split")  # what TRL's scripts read
HELD_OUT = ("eval_dataset", "eval_datasets", "dataset_test_split")


class Parser(TrlParser):
    """TRL's parser, which checks what a command line says and puts a recipe's own options first in its help."""

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

    def format_help(self) -> str:
        """Usage in one line, then the options by who has them: the recipe, TRL, transformers."""
        form = self._get_formatter()
        form.add_usage("%(prog)s [--config FILE] [--OPTION VALUE ...]", [], [])
        form.add_text(self.description)
        owners = owner_of(self.dataclass_types)
        written = {name for kind in self.dataclass_types for name in vars(kind).get("__annotations__", ())}
        actions = sorted(self._actions, key=lambda action: action.dest not in written)  # what is inherited follows
        for owner in ("", *LIBRARIES):
            form.start_section(f"options of {owner}" if owner else "options of the recipe")
            form.add_arguments([action for action in actions if owners.get(action.dest, "") == owner])
            form.end_section()
        return form.format_help()


def owner_of(types: Iterable[type]) -> dict[str, str]:
    """Option -> the library whose it is as it stands, `""` where a dataclass of ours has it."""
    found: dict[str, str] = {}
    for kind in types:
        for each in reversed(kind.__mro__):
            top = each.__module__.partition(".")[0]
            found |= dict.fromkeys(vars(each).get("__annotations__", ()), top if top in LIBRARIES else "")
    return found


@dataclass(frozen=True)
class Command:
    """A parser whose defaults are those of a YAML, what is left of the command line, and the names of both."""

    parser: Parser
    args: list[str]
    given: set[str]


def read_command(
    types: tuple[type, ...],
    args: list[str] | None,
    description: str | None,
    defaults: dict[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Command:
    """A recipe's command line, the values of its YAML checked.

    Args:
        defaults: what else stands in place of a dataclass's default, where no YAML names it.
        values: of options, as a YAML has them; they win over those of the YAML.

    Raises:
        RecipeError: a missing or malformed file, a key no dataclass has, or a value of another type or out of bounds.
    """
    # an abbreviation that a later option makes ambiguous would change what a command means
    parser = Parser(types, description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for these options")
    hints = hints_of(types)
    if VERBOSE[2:] not in hints:
        parser.add_argument(VERBOSE, action="store_true", help="print all on the terminal, nothing to output.log")
    path, args = config_path(sys.argv[1:] if args is None else args)
    given = named(args)
    parser.set_defaults_with_config(**{key: value for key, value in (defaults or {}).items() if key in hints})
    files = [read_yaml(path)] if path is not None else []
    for file in [*files, YamlFile(Path("values"), dict(values or {}))]:
        if problem := next(problems(file, hints), None):
            raise RecipeError(problem)
        found = {key: fitting(key, value, hints[key]) for key, value in file.content.items()}
        parser.set_defaults_with_config(**found)
        given |= {*found}
    return Command(parser, args, given)


def named(args: list[str]) -> set[str]:
    """The options that a command line names, `--no_NAME` too."""
    found = {arg[2:].split("=")[0].replace("-", "_") for arg in args if arg.startswith("--")}
    return found | {name.removeprefix("no_") for name in found}


def config_path(args: list[str]) -> tuple[str | None, list[str]]:
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


def problems(file: YamlFile, hints: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the options in a file: each key that no dataclass has, each value that does not fit."""
    for key, value in file.content.items():
        if problem := problem_of(key, value, hints, file.where):
            yield problem


def problem_of(key: str, value: Any, hints: dict[str, Any], where: Callable[..., str]) -> str | None:
    """What is wrong with one option, if anything; `where(*keys)` is how an error names a place in it."""
    if key == "env":
        return (
            f"{where(key)}: found variables of the environment, expected none; set them before the command, "
            "as libraries read them when they are imported"
        )
    if key == "hub_token":  # not quoted
        return f"{where(key)}: found one, expected none; set HF_TOKEN in the environment, or `hf auth login`"
    if key not in hints and (said := _elsewhere(key, hints)):
        return f"{where(key)}: unknown option; {said}"
    if key not in hints:
        near = difflib.get_close_matches(key, hints, n=1)
        return f"{where(key)}: unknown option" + (
            f", did you mean {near[0]!r}?" if near else "; --help lists the options"
        )
    try:
        fitting(key, value, hints[key])
    except Misfit as error:
        return f"{where(key, *error.keys)}: {error}"
    return None


def _elsewhere(key: str, hints: dict[str, Any]) -> str | None:
    """What stands here in the place of an option of TRL's scripts, or of another recipe."""
    if key in SCRIPTS and "datasets" in hints:
        return "datasets: [{path: NAME}] says what is read"
    if key in HELD_OUT and "datasets" in hints and "eval_datasets" not in hints:
        return "nothing is held out while this trains; `llama-align eval` measures what came out"
    if key == "max_prompt_length" and "max_length" in hints:
        return "max_length is of prompt and answer together"
    return None


def check_first(name: str, script: str) -> None:
    """Answers `--help` and ends with a mistake in a recipe's options before the imports that take seconds.

    Args:
        name, script: `__name__` and `__file__` of a recipe. Nothing is done where it is not the program, or where torch
            is there already and nothing would be gained.
    """
    if name == "__main__" and "torch" not in sys.modules:
        try:
            check_options(script, sys.argv[1:])
        except RecipeError as error:
            if os.environ.get(TRACEBACK):
                raise
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


def check_options(script: str | Path, args: list[str]) -> None:
    """Reads a recipe's command line as its source has the options; what takes their dataclasses is left to `parse`.

    Raises:
        RecipeError: as `read_command`, or an option on the command line that is unknown or does not fit.
    """
    try:
        found = outline(script)
    except Unreadable:  # the same is checked behind the imports
        return
    command = read_command(found.types, list(args), found.doc)
    command.parser.prog = Path(script).name
    command.parser.parse_known_args(command.args)
