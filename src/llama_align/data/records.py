"""The records that travel between stages, each defined once. Knows nothing about files, tokens or models.

A record is a frozen dataclass. `from_dict` refuses what does not fit with a `RecordError` that says where, which field,
what was found and what was expected; `to_dict` gives the JSON form. See data_cards/ for one page per record.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from ..chat import ROLES, Answer, Message, fault
from ..runtime.identity import lines_digest
from ..runtime.showing import show

ENDS = ("eot", "eom")  # how a message ends: its turn, or to let a tool answer
GRADES = ("significantly_better", "better", "slightly_better", "negligibly_better")
OBJECTIVES = ("helpfulness", "safety")


class RecordError(ValueError):
    """A record that does not fit; the message names place, field, what was found and expected, and perhaps a cure."""

    def __init__(self, where: str, field: str | None, found: str, expected: str, cure: str | None = None):
        self.where, self.field, self.found, self.expected = where, field, found, expected
        place = f"{where}, field '{field}'" if field else where
        super().__init__(f"{place}: found {found}, expected {expected}" + (f"; {cure}" if cure else ""))

    @property
    def reason(self) -> str:
        """The complaint without its place and value, so that equal complaints can be counted."""
        return f"field '{self.field}': expected {self.expected}" if self.field else f"expected {self.expected}"


class SourceError(ValueError):
    """A data source that cannot be read as its options say; the message names path, key, found and expected."""


# A check gets the value and `error(value, expected, path)`, which makes the RecordError to raise.
Check = Callable[[Any, Callable[..., RecordError]], None]


def _check(expected: str, fits: Callable[[Any], bool]) -> dict[str, Check]:
    """The metadata of a field whose values must fit."""

    def check(value: Any, error: Callable[..., RecordError]) -> None:
        if not fits(value):
            raise error(value, expected)

    return {"check": check}


def _one_of(names: tuple[str, ...]) -> dict[str, Check]:
    return _check("one of " + ", ".join(names), lambda value: isinstance(value, str) and value in names)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_number(value: Any) -> bool:
    """Whether this is a finite number; JSON's true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = _check("text that is not empty", _is_text)
STRING = _check("a string", lambda value: isinstance(value, str))
FLAG = _check("true or false", lambda value: isinstance(value, bool))
INTEGER = _check("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool))
TEMPERATURE = _check("a number of at least 0", lambda value: is_number(value) and value >= 0)
OBJECT = _check("an object", lambda value: isinstance(value, dict))
REWARDS = _check(
    "an object of finite numbers by name",
    lambda value: isinstance(value, dict) and all(isinstance(k, str) and is_number(v) for k, v in value.items()),
)
GRADE, OBJECTIVE, ROLE, END = _one_of(GRADES), _one_of(OBJECTIVES), _one_of(ROLES), _one_of(ENDS)


def _check_message(message: Any, error: Callable[..., RecordError], at: str, empty: bool = False) -> None:
    names = set(message) if isinstance(message, dict) else set()
    if not {"role", "content"} <= names <= {"role", "content", "end", "tool_calls"}:
        expected = "an object with role, content and, where a tool is called or will answer, tool_calls and end"
        raise error(message, expected, at)

    def within(part: str) -> Callable[..., RecordError]:
        return lambda value, expected: error(value, expected, f"{at}.{part}")

    ROLE["check"](message["role"], within("role"))
    if wrong := fault(message):
        raise error(wrong[1], wrong[2], f"{at}.{wrong[0]}")
    END["check"](message.get("end", None if message.get("tool_calls") else "eot"), within("end"))
    if any("function" in call for call in message.get("tool_calls") or ()):
        raise error(message["tool_calls"], "name and arguments alone in each call", f"{at}.tool_calls")
    # a call says something without words, and a tool may have nothing to say
    silent = empty or message.get("tool_calls") or message["role"] == "ipython"
    (STRING if silent else TEXT)["check"](message["content"], within("content"))


def _dialog(*last: str) -> dict[str, Check]:
    """Messages of known roles with text or calls in each; the last one comes from one of `last`."""

    def check(value: Any, error: Callable[..., RecordError]) -> None:
        if not isinstance(value, list) or not value:
            raise error(value, "a list of messages, each with role and content")
        for i, message in enumerate(value):
            _check_message(message, error, f"[{i}]")
        if value[-1]["role"] not in last:
            expected = f"{' or '.join(map(repr, last))}, from whom the last message must come"
            raise error(value[-1]["role"], expected, f"[{len(value) - 1}].role")

    return {"check": check}


def _answer(empty: bool) -> dict[str, Check]:
    """A text, or where it has calls or waits for a tool, the assistant's message; `empty`: it may say nothing."""

    def check(value: Any, error: Callable[..., RecordError]) -> None:
        if not isinstance(value, dict):
            (STRING if empty else TEXT)["check"](value, error)
            return
        _check_message(value, error, "", empty)
        if value["role"] != "assistant":
            raise error(value["role"], "'assistant'", ".role")
        if not value.get("tool_calls") and value.get("end") != "eom":
            raise error(value, "text, where the answer is no more than that")

    return {"check": check}


TO_ANSWER, ANSWERED = _dialog("user", "ipython"), _dialog("assistant")
ANSWER, DRAWN = _answer(empty=False), _answer(empty=True)


def _without_nulls(value: Any) -> Any:
    """Messages as they were before a table gave all of them the same columns."""
    if isinstance(value, list):
        return [_without_nulls(message) if isinstance(message, dict) else message for message in value]
    if not isinstance(value, dict) or "role" not in value:
        return value
    return {k: v for k, v in value.items() if v is not None or k not in ("end", "tool_calls")}


class Record:
    """What all records share: reading with checks and writing without the fields that are not set."""

    kind: ClassVar[str]

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def from_dict(cls, row: dict, where: str = "record") -> Self:
        """The record in `row`; `where` (file and line) opens the message of the RecordError raised if it does not fit.

        A null counts as a field that is not there, in messages, too. A field this record does not have is
        refused, as it is most often a misspelt one.
        """
        known = {f.name: f for f in fields(cls)}
        values = {name: _without_nulls(value) for name, value in row.items() if value is not None}
        if unknown := [name for name in values if name not in known]:
            raise RecordError(where, unknown[0], "a field that is not known", f"only {', '.join(known)}")
        for name, f in known.items():
            if name not in values and f.default is None:
                continue

            def error(value: Any, expected: str, path: str = "", name: str = name) -> RecordError:
                return RecordError(where, name + path, show(value), expected)

            f.metadata["check"](values.get(name), error)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, in order, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Document(Record):
    """A text to pretrain on."""

    kind = "document"
    text: str = field(metadata=TEXT)
    source: str | None = field(default=None, metadata=STRING)
    url: str | None = field(default=None, metadata=STRING)
    date: str | None = field(default=None, metadata=STRING)
    language: str | None = field(default=None, metadata=STRING)
    scores: dict[str, float] | None = field(default=None, metadata=REWARDS)


@dataclass(frozen=True)
class Prompt(Record):
    """A dialog that waits for an answer."""

    kind = "prompt"
    messages: list[Message] = field(metadata=TO_ANSWER)
    objective: str = field(metadata=OBJECTIVE)
    source: str | None = field(default=None, metadata=STRING)
    task: dict[str, Any] | None = field(default=None, metadata=OBJECT)


@dataclass(frozen=True)
class Demonstration(Record):
    """A dialog whose last answer is worth imitating. `finished`: that answer ended by itself; None counts as true."""

    kind = "demonstration"
    messages: list[Message] = field(metadata=ANSWERED)
    source: str | None = field(default=None, metadata=STRING)
    finished: bool | None = field(default=None, metadata=FLAG)


@dataclass(frozen=True)
class Preference(Record):
    """Two answers to one prompt, and by how much the chosen one is better (Llama 2, section 3.2.1).

    `edited`: the chosen answer as an annotator improved it; edited > chosen > rejected (Llama 3, section 4.1.2).
    `chosen_finished`, `rejected_finished`: whether the answer ended by itself. One that was cut (false) is scored and
    learned without an end of turn; None, as public data says nothing, counts as true, and an edited answer has an end.
    `collected`: how people were asked: seconds, and of the chosen and the rejected one models, temperatures and sides.
    """

    kind = "preference"
    prompt: list[Message] = field(metadata=TO_ANSWER)
    chosen: Answer = field(metadata=ANSWER)
    rejected: Answer = field(metadata=ANSWER)
    grade: str = field(metadata=GRADE)
    objective: str = field(metadata=OBJECTIVE)
    chosen_is_safe: bool | None = field(default=None, metadata=FLAG)
    rejected_is_safe: bool | None = field(default=None, metadata=FLAG)
    annotator: str | None = field(default=None, metadata=STRING)
    round: int | None = field(default=None, metadata=INTEGER)
    source: str | None = field(default=None, metadata=STRING)
    edited: Answer | None = field(default=None, metadata=ANSWER)
    chosen_finished: bool | None = field(default=None, metadata=FLAG)
    rejected_finished: bool | None = field(default=None, metadata=FLAG)
    collected: dict[str, Any] | None = field(default=None, metadata=OBJECT)

    @property
    def best(self) -> tuple[Answer, bool]:
        """The answer to imitate, which is the edited one where there is one, and whether it has an end."""
        return (self.chosen, self.chosen_finished is not False) if self.edited is None else (self.edited, True)

    @property
    def prefers_unsafe(self) -> bool:
        """The chosen answer is the unsafe one of the two; Llama 2 trains no reward model on such a pair."""
        return self.chosen_is_safe is False and self.rejected_is_safe is not False


@dataclass(frozen=True)
class Sample(Record):
    """An answer that a checkpoint gave, with its rewards by name. `finished`: the answer ended by itself."""

    kind = "sample"
    prompt: list[Message] = field(metadata=TO_ANSWER)
    completion: Answer = field(metadata=DRAWN)
    finished: bool = field(metadata=FLAG)
    checkpoint: str = field(metadata=TEXT)
    temperature: float = field(metadata=TEMPERATURE)
    seed: int = field(metadata=INTEGER)
    rewards: dict[str, float] = field(metadata=REWARDS)
    objective: str = field(metadata=OBJECTIVE)
    round: int | None = field(default=None, metadata=INTEGER)
    task: dict[str, Any] | None = field(default=None, metadata=OBJECT)


KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in (Document, Prompt, Demonstration, Preference, Sample)}


def records_digest(records: Iterable[Record]) -> str:
    """Digest of records in their order."""
    return lines_digest(json.dumps(record.to_dict(), sort_keys=True) for record in records)
