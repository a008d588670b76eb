"""Which columns of a source are read: a misspelt one is refused, one that means something else is named in the report.

Knows names of columns and of keys in messages, and what a source's options use; not how a row becomes a record.
"""

import string
from typing import Any

from .calls import keys_read
from .formats import ALIASES, CONTENT, DETAILS, TOOLS, passed_over, with_aliases, wrong_type
from .records import KINDS, RecordError, SourceError, show
from .sources import DataSource

_DIALOG = ("system", "prompt", "messages", TOOLS)
_CONTENT = {
    "document": ("text",),
    "prompt": _DIALOG,
    "demonstration": (*_DIALOG, "completion"),
    "preference": (*_DIALOG, "chosen", "rejected"),
}
_SCORED = (*_DIALOG, "completion", "score", "finished")
_SHAPES = {
    "alpaca": ("instruction", "input", "output", "history"),
    "sharegpt": ("conversations",),
    "ultrafeedback": ("instruction", "completions"),
}
_SHORT = 6  # a shorter name has too many neighbours that are words of their own: date and data, task and mask


class Columns:
    """The columns of one source that is read as one kind of record.

    Args:
        shape: the form of another project that its rows are in, if any.
    """

    def __init__(self, source: DataSource, kind: str, shape: str | None):
        self.source, self.kind = source, kind
        self.strict = source.format == "records" or kind == "sample"  # where the record refuses what it does not know
        self.fields = set(KINDS[kind].names()) - set(CONTENT)
        self.content = set(_CONTENT.get(kind, ()))
        self.scored = set(_SCORED) if kind == "preference" else set()
        self.dialogs = set((source.columns or {}).values())
        self.used = _used(source) | set(_SHAPES.get(shape, ()))
        self.seen: dict[str, None] = {}
        self._sound: set[tuple[str, ...]] = set()

    def check(self, row: dict, where: str) -> dict:
        """The row without the columns to ignore. Raises RecordError for a column whose name is nearly one of ours."""
        row = {name: value for name, value in row.items() if name not in (self.source.ignore or ())}
        names = tuple(row)
        if not self.strict and names not in self._sound:
            self._refuse_misspelt(names, where)
            self._sound.add(names)
        if not self.strict:
            self.seen |= dict.fromkeys(place for name, value in row.items() for place in self._places(name, value))
            self._note_passed_over(row)
        return row

    def unread(self, form: str) -> list[str]:
        """The columns seen that nothing reads, in order, with the type of those that are ours by name alone."""
        if form == "records":
            return []
        content = (self.scored if form == "scores" else self.content) if not self.source.columns else set()
        read = self.fields | content | ({TOOLS} & self.content)
        read |= {theirs for theirs, ours in ALIASES.items() if ours in read and ours not in self.seen}
        return [name for name in self.seen if name not in read | self.used]

    def refuse_ungraded(self) -> None:
        """Raises SourceError where `grades` names a column that no row had, so that `default_grade` stood for all."""
        there = dict.fromkeys(name for names in self._sound for name in names)
        made = {"score_gap", *(self.source.columns or ())}
        for name in set(self.source.grades or ()) - made - set(there) if there else ():
            found, expected = f"'{name}', which is in no row", f"one of {listed(list(there))}"
            raise SourceError(f"data source {self.source.path}, key 'grades': found {found}, expected {expected}")

    def _note_passed_over(self, row: dict) -> None:
        """Notes a dialog that is not read because the row has another."""
        if self.source.columns or not {"prompt", "messages"} <= row.keys():
            return
        if (name := passed_over(self.kind, with_aliases(row))) in self.content:
            self.seen[f"{name} (beside {'prompt' if name == 'messages' else 'messages'})"] = None

    def _places(self, name: str, value: Any) -> list[str]:
        """Names under which a value is noted: its column, or what in it is not read."""
        if value is None:
            return []
        if name in DETAILS and name in self.fields and wrong_type(name, value) and name not in self.used:
            wanted = "numbers by name" if name == "scores" else DETAILS[name].__name__
            return [f"{name} ({type(value).__name__}, not {wanted})"]
        if not isinstance(value, list) or name not in self.content | self.dialogs:
            return [name]
        messages = [message for message in value if isinstance(message, dict) and "role" in message]
        return [name, *dict.fromkeys(f"{name}[].{key}" for message in messages for key in _unread(message))]

    def _refuse_misspelt(self, names: tuple[str, ...], where: str) -> None:
        known = self.fields | self.content | self.scored | set(ALIASES)
        for name in names:
            if name in known | self.used | set(CONTENT):
                continue
            meant = next((ours for ours in sorted(known) if ours not in names and nearly(name, ours)), None)
            if meant:
                found = f"a column that is nearly '{meant}'"
                cure = f"columns: {{{meant}: {name}}} reads it as such, ignore: [{name}] leaves it out"
                raise RecordError(where, name, found, f"'{meant}', or a name of its own ({cure})")


def nearly(name: str, ours: str) -> bool:
    """Whether a name is one of ours but for case and separators, or, if it is no short one, for one slip of a key."""
    plain, wanted = ("".join(filter(str.isalnum, text)).casefold() for text in (name, ours))
    return plain == wanted or (len(wanted) >= _SHORT and _one_slip(plain, wanted))


def _one_slip(a: str, b: str) -> bool:
    """Whether one letter was added, left out or replaced, or two neighbours changed places; a plural is no slip."""
    a, b = sorted((a, b), key=len)
    if b == a + "s":
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    a, b = a[start:], b[start:]
    return a == b[1:] or a[1:] == b[1:] or (a[1::-1] == b[:2] and a[2:] == b[2:])


def _unread(message: dict) -> list[str]:
    return [key for key, value in message.items() if value is not None and key not in keys_read(message)]


def _used(source: DataSource) -> set[str]:
    """The columns that the options of a source name."""
    used = set(source.where or ())
    for column in (source.columns or {}).values():
        fields = [field for _, field, _, _ in string.Formatter().parse(column) if field] if "{" in column else [column]
        used |= {field.split("[")[0].split(".")[0] for field in fields} | {column}
    for column in source.grades or ():
        used |= {column, "score_chosen", "score_rejected"} if column == "score_gap" else {column}
    return used


def listed(names: list[str], most: int = 30) -> str:
    """Names in a line that stays readable."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name if len(name) <= 60 else show(name) for name in names[:most]) + more
