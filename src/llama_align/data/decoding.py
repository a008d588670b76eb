"""JSON text to values that every later stage can hold and write again, or the name of the one that cannot be.

Knows nothing of files and of what a row means. Refused: what JSON does not have (NaN, infinity, numbers beyond a
float), what it leaves open (a key twice), what breaks later (half a surrogate pair, very long integers, very deep
nesting).
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from .records import RecordError, show

MOST_DIGITS = 300  # an integer of more is beyond any float
MOST_DEPTH = 100  # Python's own walks over a value end at some hundreds

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]").search  # several times as fast as `in`


@dataclass(frozen=True)
class Unsound:
    """What stands where a value cannot be taken."""

    found: str
    expected: str


class Decoder:
    """Decodes one text after the other."""

    def __init__(self) -> None:
        self._met_unsound = False
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_float=self._float,
            parse_int=self._integer,
            parse_constant=lambda name: self._unsound(name, "a finite number"),
        )

    def decode(self, text: str, where: str, wanted: str) -> tuple[Any, bool]:
        """The value, and whether `refuse_unsound` must look at it. Raises RecordError for text that is not whole JSON.

        Args:
            text: without white space around it. wanted: what it should be, in words for the error.
        """
        self._met_unsound = False
        try:
            value, end = self._json.raw_decode(text)
            if end != len(text):
                raise json.JSONDecodeError("Extra data", text, end)
        except json.JSONDecodeError as error:
            raise RecordError(where, None, _named(error, text), wanted) from error
        except RecursionError as error:
            raise RecordError(where, None, "lists or objects nested by the hundreds", _DEPTH) from error
        return value, self._met_unsound or _SURROGATE(text) is not None

    def _unsound(self, found: str, expected: str) -> Unsound:
        self._met_unsound = True
        return Unsound(found, expected)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict:
        made = dict(pairs)
        if len(made) != len(pairs):
            ((key, times),) = Counter(key for key, _ in pairs).most_common(1)
            made[key] = self._unsound(f"the key {times} times", "each key once in an object")
        return made

    def _float(self, text: str) -> float | Unsound:
        value = float(text)
        return value if math.isfinite(value) else self._unsound(text[:20], "a number that a float can hold")

    def _integer(self, text: str) -> int | Unsound:
        if len(text) > MOST_DIGITS:
            return self._unsound(f"an integer of {len(text)} digits", f"one of at most {MOST_DIGITS}")
        return int(text)


_DEPTH = f"at most {MOST_DEPTH} within each other"


def _named(error: json.JSONDecodeError, text: str) -> str:
    if error.pos >= len(text) or error.msg.startswith("Unterminated"):
        return f"text that ends with {text[-40:]!r}"
    near = text[max(0, error.pos - 20) : error.pos + 20]
    return f"{near!r} ({error.msg.lower().removesuffix(' at')} at character {error.pos + 1})"


def refuse_unsound(value: Any, where: str, field: str = "") -> None:
    """Raises RecordError that names the first value, in the order of the text, that a later stage could not take."""
    stack = [(field, value, 0)]
    while stack:
        path, value, depth = stack.pop()
        if bad := _bad(value, depth):
            raise RecordError(where, path or None, bad.found, bad.expected)
        if isinstance(value, dict):
            inner = [(f"{path}.{_name(key)}" if path else _name(key), part) for key, part in value.items()]
            if bad := next(filter(None, (_bad(key, 0) for key in value)), None):
                raise RecordError(where, path or None, f"a key with {bad.found}", bad.expected)
        elif isinstance(value, list):
            inner = [(f"{path}[{i}]", part) for i, part in enumerate(value)]
        else:
            continue
        stack += [(place, part, depth + 1) for place, part in reversed(inner)]


def _bad(value: Any, depth: int) -> Unsound | None:
    if isinstance(value, Unsound):
        return value
    if depth > MOST_DEPTH:
        return Unsound(f"lists or objects more than {MOST_DEPTH} deep", _DEPTH)
    if isinstance(value, float) and not math.isfinite(value):
        return Unsound(str(value), "a finite number")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return Unsound(f"half of a surrogate pair at {error.start}, {show(value)}", "text that UTF-8 can write")
    return None


def _name(key: Any) -> str:
    """A key as a path names it: short, and on one line."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= 60 else show(key)
