"""The steps of a plan as its YAML has them: which keys they have and what each may be."""

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..recipe import RecipeError, yaml_files
from ..recipe.bounds import shown
from ..recipe.yaml_files import YamlFile, field_name

LAUNCHED = (
    "pretrain",
    "sft",
    "reward",
    "ppo",
    "dpo",
    "rejection_sampling",
)  # the recipes that share their work among processes
SHARDED = ("rejection_sampling",)
# what a step may ask Slurm for: of what kind, in words
RESOURCES = {
    **dict.fromkeys(("nodes", "gpus", "cpus", "array", "at_once"), ("number", "a whole number of at least 1")),
    **dict.fromkeys(("mem", "time", "partition", "account", "qos", "constraint"), ("text", "a line of text")),
    **{"setup": ("lines", "a list of lines for the shell"), "sbatch": ("options", "options of sbatch by name")},
}
LONGEST = 100  # characters of a step's name, which a directory's begins with
NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST}}}")
MOST_ROUNDS = 100
KEYS_OF_A_PLAN = ("name", "seed", "launch", "executor", "resources", "accept_older", "tracker", "steps")
EXECUTORS = ("local", "inline", "slurm")  # how steps are run; none of them changes what comes out
KEYS = ("name", "recipe", "config", "set", "launch", "resources")
KEYS_OF_A_ROUND = (*KEYS, "rounds", "from")
KEYS_OF_REPEAT = ("rounds", "start", "steps")
ROUND = "round"  # {round} is the number of the round

Where = Callable[..., str]  # keys within a step -> how an error names the place


class PlanError(ValueError):
    """A plan that cannot be run; the message names file, line, step and field."""


@dataclass
class Step:
    """One stage of a run.

    name: unique; other steps refer to its directory as `{name}`. recipe: a script of recipes/. config: its YAML,
    relative to the plan. set: options that differ from the YAML. launch: accelerate configuration (none: one
    process); the plan's own is the default of the recipes that train. resources: what its job asks of Slurm; no part of
    what it is.

    Of a step that is repeated `of` is its name in the block, `round` the number and `name` the two together. `places`
    says where an option of `set` stands, as keys within the step, and `keys` where the step does in its file.
    """

    name: str
    recipe: str
    file: YamlFile = field(compare=False, repr=False)
    keys: tuple = field(compare=False)
    config: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    launch: str | None = None
    resources: dict[str, Any] = field(default_factory=dict, compare=False)
    of: str | None = None
    round: int | None = None
    places: dict[str, tuple] = field(default_factory=dict, compare=False)

    def where(self, *keys: Any) -> str:
        """How an error names a field of this step."""
        return place_of(self.file, self.keys, f"step {self.name!r}", *keys)

    def where_option(self, option: str, *keys: Any) -> str:
        """How an error names an option, or what is within it."""
        return self.where(*self.places.get(option, ("set",)), option, *keys)


@dataclass
class Repeated:
    """A step of a block. rounds: those it has a part in. later: round -> options that differ from that round on."""

    step: Step
    rounds: tuple[int, ...]
    later: dict[int, dict[str, Any]]


@dataclass
class Repeat:
    """A block of steps run in every round. start: what `{name@previous}` is in round 1, by name."""

    where: Where
    rounds: int
    start: dict[str, str]
    steps: list[Repeated]


def read_yaml(path: Path) -> YamlFile:
    """A mapping from a YAML file. Raises PlanError where the file is missing, malformed or something else."""
    try:
        return yaml_files.read_yaml(path)
    except RecipeError as error:
        raise PlanError(str(error)) from error


def read_steps(file: YamlFile, launch: str | None) -> list[Step | Repeat]:
    """The steps and blocks of a plan, each with the plan's resources where it has none of its own.

    Args:
        launch: accelerate configuration of the recipes that train, where a step has none of its own.

    Raises:
        PlanError: a key that is unknown, or a value of another kind.
    """
    rows = file.content.get("steps")
    if not isinstance(rows, list) or not rows:
        raise PlanError(f"{file.where('steps')}: found {shown(rows)}, expected a list of steps")
    resources = file.content.get("resources", {})
    check_resources(file.where, resources)
    read = _Reader(file, launch, resources)
    return [read.row(("steps", number), f"step {number + 1}", row) for number, row in enumerate(rows)]


@dataclass
class _Reader:
    file: YamlFile
    launch: str | None
    resources: dict[str, Any]

    def row(self, keys: tuple, title: str, row: Any) -> Step | Repeat:
        if isinstance(row, dict) and "repeat" in row:
            return self._repeat(keys, row)
        return self._step(keys, title, row, KEYS)

    def _repeat(self, keys: tuple, row: dict) -> Repeat:
        where = partial(place_of, self.file, keys, "repeat")
        if len(row) > 1:
            other = next(key for key in row if key != "repeat")
            raise PlanError(f"{where(other)}: found it beside repeat, expected repeat alone")
        block, keys, within = row["repeat"], (*keys, "repeat"), partial(where, "repeat")
        if not isinstance(block, dict):
            raise PlanError(f"{within()}: found {shown(block)}, expected a mapping with rounds and steps")
        if unknown := sorted(set(map(str, block)) - set(KEYS_OF_REPEAT)):
            raise PlanError(f"{within(unknown[0])}: unknown, expected {', '.join(KEYS_OF_REPEAT)}")
        rounds = block.get("rounds")
        if type(rounds) is not int or not 1 <= rounds <= MOST_ROUNDS:
            raise PlanError(f"{within('rounds')}: found {shown(rounds)}, expected a number of 1 to {MOST_ROUNDS}")
        rows = block.get("steps")
        if not isinstance(rows, list) or not rows:
            raise PlanError(f"{within('steps')}: found {shown(rows)}, expected a list of steps")
        steps = [
            self._repeated((*keys, "steps", n), f"step {n + 1} of repeat", row, rounds) for n, row in enumerate(rows)
        ]
        start = block.get("start", {})
        if not isinstance(start, dict):
            raise PlanError(
                f"{within('start')}: found {shown(start)}, expected what steps of the block begin with, by name"
            )
        names = [one.step.name for one in steps]
        for name, text in start.items():
            if name not in names:
                raise PlanError(
                    f"{within('start', name)}: found no step {name!r} in the block, expected {', '.join(names)}"
                )
            check_text(within("start", name), text)
        return Repeat(within, rounds, start, steps)

    def _repeated(self, keys: tuple, title: str, row: Any, rounds: int) -> Repeated:
        step = self._step(keys, title, row, KEYS_OF_A_ROUND)
        if step.name == ROUND:
            raise PlanError(
                f"{step.where('name')}: found {ROUND!r}, which {{{ROUND}}} is the number of, expected another"
            )
        part = row.get("rounds", list(range(1, rounds + 1)))
        fit = isinstance(part, list) and part and all(type(n) is int and 1 <= n <= rounds for n in part)
        if not fit or len(set(part)) < len(part):
            raise PlanError(
                f"{step.where('rounds')}: found {shown(part)}, expected a list of rounds from 1 to {rounds}"
            )
        later = row.get("from", {})
        if not isinstance(later, dict):
            raise PlanError(f"{step.where('from')}: found {shown(later)}, expected options by the round they hold from")
        for number, options in later.items():
            if type(number) is not int or not 2 <= number <= rounds:
                raise PlanError(
                    f"{step.where('from', str(number))}: found {number!r}, expected a round from 2 to {rounds}"
                )
            _check_options(step.where("from", str(number)), options)
        return Repeated(step, tuple(sorted(part)), dict(sorted(later.items())))

    def _step(self, keys: tuple, title: str, row: Any, known: tuple[str, ...]) -> Step:
        where = partial(place_of, self.file, keys, title)
        if fault := next(faults(where, row, known), None):
            raise fault
        default = {"launch": self.launch} if row["recipe"] in LAUNCHED else {}
        step = Step(file=self.file, keys=keys, **default | {key: row[key] for key in KEYS if key in row})
        _check_use(where, step)
        step.resources = {key: value for key, value in self.resources.items() if key != "array"} | step.resources
        return step


def faults(where: Where, row: Any, known: tuple[str, ...] = KEYS) -> Iterator[PlanError]:
    """What is wrong with a step's keys and their values."""
    if not isinstance(row, dict):
        yield PlanError(f"{where()}: found {shown(row)}, expected a mapping with name and recipe")
        return
    for key in sorted(set(map(str, row)) - set(known)):
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        yield PlanError(f"{where(key)}: unknown, expected {', '.join(known)}{hint}")
    for key in ("name", "recipe"):
        if not isinstance(row.get(key), str) or not NAME.fullmatch(row[key]):
            expected = f"at most {LONGEST} letters, digits, - and _"
            yield PlanError(f"{where(key)}: found {shown(row.get(key))}, expected {expected}")
    checks = [(check_text, key) for key in ("config", "launch") if row.get(key) is not None]
    for check, key in (*checks, *([(_check_options, "set")] if "set" in row else [])):
        try:
            check(where(key), row[key])
        except PlanError as error:
            yield error
    try:
        check_resources(where, row.get("resources", {}))
    except PlanError as error:
        yield error


def place_of(file: YamlFile, at: tuple, step: str, *keys: Any) -> str:
    """How an error names a field of a step."""
    place = file.where(*at, *keys).partition(", field ")[0]
    return f"{place}, {step}" + (f", field {field_name(keys)}" if keys else "")


def _check_options(where: str, options: Any) -> None:
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise PlanError(f"{where}: found {shown(options)}, expected a mapping of options")


def check_text(where: str, value: Any) -> None:
    """Raises PlanError for anything but a text that a file's name can be."""
    if not isinstance(value, str) or not value.strip() or len(value.encode()) > 255:
        raise PlanError(f"{where}: found {shown(value)}, expected text of at most 255 bytes")


def check_resources(where: Where, resources: Any) -> None:
    """Raises PlanError for what no job can be asked for."""
    if not isinstance(resources, dict):
        raise PlanError(f"{where('resources')}: found {shown(resources)}, expected a mapping")
    for key, value in resources.items():
        place = where("resources", str(key))
        if key not in RESOURCES:
            raise PlanError(f"{place}: unknown, expected {', '.join(RESOURCES)}")
        kind, expected = RESOURCES[key]
        fits = {
            "number": type(value) is int and value >= 1,
            "text": (isinstance(value, str) and value.strip() and "\n" not in value) or type(value) is int,
            "lines": isinstance(value, list) and all(isinstance(line, str) for line in value),
            "options": isinstance(value, dict)
            and all(isinstance(name, str) and isinstance(one, str | int | None) for name, one in value.items()),
        }
        if not fits[kind]:
            raise PlanError(f"{place}: found {shown(value)}, expected {expected}")


def _check_use(where: Where, step: Step) -> None:
    if "array" in step.resources and step.recipe not in SHARDED:
        found = f"found it for {step.recipe}, expected one of {', '.join(SHARDED)}, whose work comes in shards"
        raise PlanError(f"{where('resources', 'array')}: {found}")
    if step.resources.get("nodes", 1) > 1 and step.launch is None:
        raise PlanError(f"{where('resources', 'nodes')}: found several without launch, expected accelerate's file")
