"""Reads a run directory: run.json, and from each step's directory whatever exists of what the recipes write.

Nothing is computed here. A file that is broken or holds the wrong type is a RecordError (a ValueError) that names the
file, the field, what was found and what was expected; a file that is not there is simply left out.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..chat import fault
from ..data.jsonl import read_jsonl
from ..data.records import DRAWN, RecordError, show


def is_number(value: Any) -> bool:
    """Whether it is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS = {
    "a number": is_number,
    "text": lambda value: isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool | int),
    "a list": lambda value: isinstance(value, list),
    "an object": lambda value: isinstance(value, dict),
    "a list of objects": lambda value: isinstance(value, list) and all(isinstance(row, dict) for row in value),
    "a list of 0 and 1": lambda value: isinstance(value, list) and all(x in (0, 1) for x in value),
    "a list of finite numbers": lambda value: (
        isinstance(value, list) and all(is_number(x) and math.isfinite(x) for x in value)
    ),
}


def pick(where: str, row: Mapping, path: str, kind: str = "a number", required: bool = False) -> Any:
    """The value at a dotted path, None when it is absent. RecordError when it is not of that kind, or required."""
    value: Any = row
    for i, name in enumerate(path.split(".")):
        if not isinstance(value, Mapping):
            raise RecordError(where, ".".join(path.split(".")[:i]), show(value), "an object")
        value = value.get(name)
        if value is None:
            if required:
                raise RecordError(where, path, "nothing", kind)
            return None
    if not _KINDS[kind](value):
        raise RecordError(where, path, show(value), kind)
    return value


@dataclass(frozen=True)
class Step:
    """One step of the run; None, or an empty log, where a file does not exist. `config` is the text of its YAML.

    Of a step that is repeated `of` is its name in the plan and `round` the round; `alarms` is what it warned of.
    """

    name: str
    recipe: str
    status: str
    seconds: float | None
    directory: Path
    metrics: dict | None
    log: list[dict]
    config: str | None
    of: str | None = None
    round: int | None = None
    alarms: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The file its metrics come from, for error messages."""
        return str(self.directory / "metrics.json")


@dataclass(frozen=True)
class Evaluation:
    """The rows of one evaluation, with per-item lists and samples by row name where their files exist."""

    step: str
    directory: Path
    metrics: dict
    decoding: str | None  # "greedy", "temperature 1"; None where nothing says it
    details: dict[str, dict] = field(default_factory=dict)
    samples: dict[str, list[dict]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """The file its rows come from, for error messages."""
        return str(self.directory / "metrics.json")

    @property
    def names(self) -> list[str]:
        """Row names in the order of the evaluation."""
        return [pick(self.where, row, "row", "text", required=True) for row in self.metrics["rows"]]


@dataclass(frozen=True)
class Run:
    """A whole run."""

    name: str
    seed: int | None
    steps: list[Step]
    evaluations: list[Evaluation]


def read_run(run_dir: str | Path) -> Run:
    """The run in a directory. FileNotFoundError without run.json, RecordError for any broken file."""
    run_dir = Path(run_dir)
    path = run_dir / "run.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found, expected the run.json that the round manager writes")
    run = _read_json(path)
    rows = pick(str(path), run, "steps", "a list of objects", required=True)
    steps = [read_step(run_dir, row, f"{path}, step {i + 1}") for i, row in enumerate(rows)]
    evaluations = [_read_evaluation(step) for step in steps if _is_evaluation(step)]
    return Run(
        pick(str(path), run, "name", "text") or run_dir.resolve().name, pick(str(path), run, "seed"), steps, evaluations
    )


def _is_evaluation(step: Step) -> bool:
    # another recipe's "rows" may be a count
    return step.metrics is not None and (step.recipe == "evaluate" or isinstance(step.metrics.get("rows"), list))


def read_step(run_dir: Path, row: dict, where: str) -> Step:
    """A step by its row in run.json, of which a name and a directory are enough. RecordError for any broken file."""
    directory = run_dir / pick(where, row, "directory", "text", required=True)
    log = directory / "log.jsonl"
    return Step(
        name=pick(where, row, "name", "text", required=True),
        recipe=pick(where, row, "recipe", "text") or "",
        status=pick(where, row, "status", "text") or "",
        seconds=pick(where, row, "seconds"),
        directory=directory,
        metrics=_read_json(directory / "metrics.json"),
        log=[line for _, line in read_jsonl(log)] if log.is_file() else [],
        config=_read_text(directory / "config.yaml"),
        of=pick(where, row, "of", "text"),
        round=pick(where, row, "round"),
        alarms=tuple(map(str, pick(where, row, "alarms", "a list") or ())),
    )


def _read_evaluation(step: Step) -> Evaluation:
    pick(step.where, step.metrics, "rows", "a list of objects", required=True)
    evaluation = Evaluation(step.name, step.directory, step.metrics, _decoding(step))
    for name in evaluation.names:
        if "/" in name or "\\" in name:
            raise RecordError(step.where, "row", show(name), "a name that can be a file's")
        if (details := _read_json(step.directory / f"{name}.json")) is not None:
            evaluation.details[name] = details
        samples = step.directory / f"samples_{name}.jsonl"
        if samples.is_file():
            evaluation.samples[name] = [_sample(line, f"{samples}, line {n}") for n, line in read_jsonl(samples)]
    return evaluation


def _decoding(step: Step) -> str | None:
    where, found = step.where, pick(step.where, step.metrics, "decoding", "an object")
    if found is None:  # evaluations of 0.1.0 have it in their configuration alone
        where = str(step.directory / "config.yaml")
        try:
            found = yaml.safe_load(step.config or "") or {}
        except yaml.YAMLError as error:
            raise RecordError(where, None, f"text that is not YAML ({error})", "the step's configuration") from error
    heat = pick(where, found, "temperature")
    if heat is None:
        return None
    top_p = pick(where, found, "top_p")
    nucleus = "" if top_p in (None, 1) else f", top-p {top_p:g}"
    return f"temperature {heat:g}{nucleus}" if heat else "greedy"


def _sample(line: dict, where: str) -> dict:
    for message in pick(where, line, "prompt", "a list of objects", required=True):
        for name in ("role", "content"):
            pick(where, message, name, "text", required=True)
        if wrong := fault(message):
            raise RecordError(where, f"prompt.{wrong[0]}", show(wrong[1]), wrong[2])

    def error(value: Any, expected: str, at: str = "") -> RecordError:
        return RecordError(where, f"completion{at}", show(value), expected)

    DRAWN["check"](line.get("completion"), error)
    pick(where, line, "task", "an object")
    for name in ("helpful", "violation", "false_refusal"):
        pick(where, line, name, "true or false")
    return line


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8") if path.is_file() else None
    except UnicodeDecodeError as error:
        raise RecordError(str(path), None, f"byte {error.object[error.start]:#04x}", "UTF-8 text") from error


def _read_json(path: Path) -> dict | None:
    text = _read_text(path)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise RecordError(str(path), None, f"text that is not JSON ({error})", "a JSON object") from error
    if not isinstance(value, dict):
        raise RecordError(str(path), None, show(value), "a JSON object")
    return value
