"""The records in one source, and what became of its rows. Knows nothing of tokens, models or mixtures."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

from ..chat import as_text
from . import community
from .columns import Columns
from .cures import advice, changes
from .decoding import refuse_unsound
from .formats import convert, fields_of, pair_up, prompt_of, rename, scored
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
    unread: list[str] = field(default_factory=list)

    def reasons(self) -> list[str]:
        """Why rows are missing, with how many, the most frequent reason first."""
        left_out = [f"left out {n}: {why}" for why, n in self.left_out.most_common()]
        skipped = [f"skipped {n}: {why} (first: {self.first[why]})" for why, n in self.skipped.most_common()]
        return left_out + skipped


def read_source(source: DataSource, wanted: str) -> tuple[list[Record], Tally]:
    """All records of the wanted kind in one source, and what became of its rows.

    Raises RecordError for the first row that does not fit, unless the source says `skip: count`.
    """
    tally = Tally(source.label)
    return list(stream_source(source, wanted, tally)), tally


def stream_source(source: DataSource, wanted: str, tally: Tally) -> Iterator[Record]:
    """The records of `read_source` one after the other; `tally` is whole behind the last one."""
    if source.format == "tokens":
        raise SourceError(f"data source {source.path}, key 'format': found tokens, which only pretraining takes")
    kind = wanted if source.kind == "auto" else source.kind

    def attempt(step: Callable[[dict, str], Any], rows: Iterable[Row]) -> Iterator[tuple[str, Any]]:
        for where, row in rows:
            try:
                if isinstance(row, RecordError):
                    raise row
                result = step(row, where)
            except RecordError as error:
                if source.skip == "error":
                    cure = advice(error, _would_read(source, wanted, row))
                    raise RecordError(error.where, error.field, error.found, error.expected, cure) from error
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

    first, rows = _peek(counted())
    shape = _shape(source, kind, first)
    if shape == "ultrafeedback":
        rows = chain.from_iterable(found for _, found in attempt(community.ultrafeedback, rows))
    columns = Columns(source, kind, shape)
    checked = attempt(columns.check, rows)
    first, rows = _peek(attempt(lambda row, where: _prepare(source, shape, row, where), checked))
    if first is None:
        return
    form = _format(source, kind, shape, first)
    if form == "scores":
        rows = pair_up(attempt(_scored, rows))
    built = attempt(lambda row, where: _build(source, kind, wanted, form, row, where), rows)
    for _, record in islice(built, source.limit):
        tally.fitting += 1
        yield record
    tally.unread = columns.unread(form)
    columns.refuse_ungraded()


def _peek(rows: Iterator[Row]) -> tuple[dict | None, Iterator[Row]]:
    """The first row that could be read, and all rows."""
    head = []
    for where, row in rows:
        head.append((where, row))
        if isinstance(row, dict):
            return row, chain(head, rows)
    return None, iter(head)


def _would_read(source: DataSource, wanted: str, row: Any) -> str | None:
    """The first change of options with which this very row could be read, in words."""
    if not isinstance(row, dict):
        return None
    lenient = replace(source, skip="count", part=None, max_chars=None)
    lenient = replace(lenient, default_grade=source.default_grade or "better", objective=source.objective or "safety")
    for said, changed in changes(lenient, wanted if source.kind == "auto" else source.kind, row):
        if _reads(changed, wanted, row):
            return said
    return None


def _reads(source: DataSource, wanted: str, row: dict) -> bool:
    kind = wanted if source.kind == "auto" else source.kind
    try:
        shape = _shape(source, kind, row)
        rows = community.ultrafeedback(row, "") if shape == "ultrafeedback" else [("", row)]
        ready = [_prepare(source, shape, one, where) for where, one in rows if isinstance(one, dict)]
        form = _format(source, kind, shape, ready[0]) if ready and isinstance(ready[0], dict) else ""
        if form == "scores":
            return all(scored(one, "") for one in ready)
        return bool(form) and isinstance(_build(source, kind, wanted, form, ready[0], ""), Record)
    except (RecordError, SourceError):
        return False


def _shape(source: DataSource, kind: str, row: dict | None) -> str | None:
    """The form of another project that the rows are in, named by the source or seen in the first row."""
    if source.format in community.COMMUNITY:
        return source.format
    return community.detect(row, kind) if row and source.format == "auto" and not source.columns else None


def _prepare(source: DataSource, shape: str | None, row: dict, where: str) -> dict | str:
    """The row under our names, or why it is left out."""
    for column, wanted in (source.where or {}).items():
        if column not in row:
            raise RecordError(where, f"where.{column}", f"columns {', '.join(row)}", f"'{column}'")
        values = wanted if isinstance(wanted, list) else [wanted]
        if isinstance(row[column], str) and any(isinstance(value, bool) for value in values):
            # YAML reads no, yes, on and off as these: no row of "no" would ever be taken
            raise SourceError(f"{where}, key 'where.{column}': found true or false, expected text in quotes")
        if row[column] not in values:
            return f"'{column}' is not {wanted}"
    if source.columns:  # a grade's column may have the name of content
        kept = {name: row[name] for name in source.grades or () if name in row}
        row = kept | rename(row, source.columns, where)
    return community.READERS[shape](row, where) if shape in community.READERS else row


def _format(source: DataSource, kind: str, shape: str | None, row: dict) -> str:
    scores = source.format == "scores" or shape == "ultrafeedback"
    if scores and kind != "preference":
        raise SourceError(f"data source {source.path}, key 'format': scores make preferences, not a {kind}")
    if kind == "sample":
        return "records"
    if shape:
        return "scores" if scores else "trl"
    if source.format != "auto":
        return source.format
    alone = kind == "preference" and not {"chosen", "rejected"} & set(row)
    return "scores" if alone and {"score", "helpfulness"} & set(row) else "trl"


def _scored(row: dict, where: str) -> dict:
    row = scored(row, where)
    refuse_unsound(prompt_of(row), where, "prompt")  # answers are grouped by its text
    return row


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
        found = fields_of(kind, row, where, transcripts=form == "hh", named=source.columns or ())
    record = KINDS[wanted].from_dict(filled(KINDS[wanted], convert(kind, wanted, found, where)), where)
    if getattr(record, "task", None):
        refuse_unsound(record.task, where, "task")  # a table may hold NaN, which could not be written again
    if source.max_chars and _length(record) > source.max_chars:
        return f"longer than {source.max_chars} characters"
    if source.part and not source.part[0] <= place(record) < source.part[1]:
        return f"prompt not in part {source.part}"
    return record


def _length(record: Record) -> int:
    """Characters of content and calls, of all messages and answers together."""
    total = 0
    for name in ("text", "chosen", "rejected", "completion"):
        total += len(as_text(getattr(record, name, "")))
    for name in ("messages", "prompt"):
        total += sum(len(as_text(message)) for message in getattr(record, name, ()))
    return total
