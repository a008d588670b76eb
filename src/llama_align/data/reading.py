"""The records in one source, and what became of its rows. Knows nothing of tokens, models or mixtures."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from .formats import convert, fields_of, pair_up, rename, scored
from .opening import Row, open_rows
from .records import KINDS, Record, RecordError, SourceError
from .sources import DataSource
from .splits import place


@dataclass
class Tally:
    """What became of the rows of one source: left out on request, skipped because they did not fit, or kept."""

    name: str
    rows: int = 0
    fitting: int = 0
    used: int = 0
    left_out: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)


def read_source(source: DataSource, wanted: str) -> tuple[list[Record], Tally]:
    """All records of the wanted kind in one source, and what became of its rows.

    Raises RecordError for the first row that does not fit, unless the source says `skip: count`.
    """
    tally = Tally(source.label)
    kind = wanted if source.kind == "auto" else source.kind

    def attempt(step: Callable[[dict, str], Any], rows: Iterator[Row]) -> Iterator[tuple[str, Any]]:
        for where, row in rows:
            try:
                result = step(row, where)
            except RecordError as error:
                if source.skip == "error":
                    raise
                tally.skipped[error.reason] += 1
                tally.first.setdefault(error.reason, where)
            else:
                if isinstance(result, str):
                    tally.left_out[result] += 1
                else:
                    yield where, result

    def counted() -> Iterator[Row]:
        for row in open_rows(source.path, source.split):
            tally.rows += 1
            yield row

    prepared = attempt(lambda row, where: _prepare(source, row, where), counted())
    first = next(prepared, None)
    if first is None:
        return [], tally
    form = _format(source, kind, first[1])
    rows = chain([first], prepared)
    if form == "scores":
        rows = pair_up(attempt(scored, rows))
    built = attempt(lambda row, where: _build(source, kind, wanted, form, row, where), rows)
    records = [record for _, record in islice(built, source.limit)]
    tally.fitting = len(records)
    return records, tally


def _prepare(source: DataSource, row: dict, where: str) -> dict | str:
    """The row under our names, or why it is left out."""
    for column, wanted in (source.where or {}).items():
        if column not in row:
            raise RecordError(where, f"where.{column}", f"columns {', '.join(row)}", f"'{column}'")
        if row[column] not in (wanted if isinstance(wanted, list) else [wanted]):
            return f"'{column}' is not {wanted}"
    return rename(row, source.columns, where) if source.columns else row


def _format(source: DataSource, kind: str, row: dict) -> str:
    if source.format == "scores" and kind != "preference":
        raise SourceError(f"data source {source.path}, key 'format': scores make preferences, not a {kind}")
    if kind == "sample":
        return "records"
    if source.format != "auto":
        return source.format
    alone = kind == "preference" and not {"chosen", "rejected"} & set(row)
    return "scores" if alone and {"score", "helpfulness"} & set(row) else "trl"


def _build(source: DataSource, kind: str, wanted: str, form: str, row: dict, where: str) -> Record | str:
    """The wanted record, or why it is left out."""

    def filled(cls: type[Record], values: dict) -> dict:
        defaults = {"objective": source.objective, "source": source.label}
        given = {name: value for name, value in values.items() if value is not None}
        return {name: value for name, value in defaults.items() if name in cls.names()} | given

    if kind == wanted == "preference":
        row = row | {"grade": source.grade(row, where) or row.get("grade") or source.default_grade}
    if form == "records":
        found = KINDS[kind].from_dict(filled(KINDS[kind], row), where).to_dict()
    else:
        found = fields_of(kind, row, where, transcripts=form == "hh")
    record = KINDS[wanted].from_dict(filled(KINDS[wanted], convert(kind, wanted, found, where)), where)
    if source.max_chars and _length(record) > source.max_chars:
        return f"longer than {source.max_chars} characters"
    if source.part and not source.part[0] <= place(record) < source.part[1]:
        return f"prompt not in part {source.part}"
    return record


def _length(record: Record) -> int:
    """Characters of content, of all messages and answers together."""
    total = 0
    for name in ("text", "chosen", "rejected", "completion"):
        total += len(getattr(record, name, ""))
    for name in ("messages", "prompt"):
        total += sum(len(message["content"]) for message in getattr(record, name, ()))
    return total
