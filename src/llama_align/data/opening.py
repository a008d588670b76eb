"""Rows from a local file, a directory saved by `datasets`, or the Hub, each with the words for where it stands.

Knows paths, Parquet and the `datasets` library; not what a row means.
"""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import pyarrow
from pyarrow import parquet

from .calls import without_filled
from .jsonl import LINES, LISTS, scan_json, scan_jsonl
from .records import RecordError, SourceError

Row = tuple[str, dict | RecordError]  # where it stands, and what it holds or why it cannot be read
SUFFIXES = (*LINES, *LISTS, ".parquet")

_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
# what reading a damaged or strange table raises; text that is not UTF-8 is a ValueError, a date out of range another
_UNREADABLE = (pyarrow.ArrowException, ValueError, OverflowError, OSError, KeyError, TypeError)


def expand(path: str) -> str:
    """The path with environment variables and `~` replaced. Raises ValueError for a variable without a value."""

    def value(match: re.Match) -> str:
        name, default = match[1] or match[3], match[2]
        if (found := os.environ.get(name, default)) is None:
            raise SourceError(f"data source {path}: the environment variable {name} is not set")
        return found

    return os.path.expanduser(_VARIABLE.sub(value, path))


def open_rows(path: str, split: str = "train") -> Iterator[Row]:
    """Yields (where, row) from a file, a saved directory or the Hub; for a row that cannot be read, the RecordError.

    Raises SourceError for a local path that is not there or of no known form, a missing split, a damaged table, or a
    Hub data set that cannot be loaded, RecordError for a damaged file of JSON.
    """
    path = expand(path)
    if os.path.isfile(path) and path.endswith(SUFFIXES):
        if path.endswith(".parquet"):
            return _parquet(path)
        if path.endswith(LISTS) and (rows := scan_json(path)) is not None:
            return ((f"{path}, row {index}", row) for index, row in rows)
        return ((f"{path}, line {number}", row) for number, row in scan_jsonl(path))
    return _numbered(path, _readable(path, _open_table(path, split)))


def _numbered(path: str, rows: Iterable[Any]) -> Iterator[Row]:
    return ((f"{path}, row {index}", without_filled(row)) for index, row in enumerate(rows))


def _parquet(path: str) -> Iterator[Row]:
    """The rows of a Parquet file, batch by batch."""
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if twice := {name for name in names if names.count(name) > 1}:
                raise SourceError(f"data source {path}: found the column '{min(twice)}' twice, expected it once")
            for batch in file.iter_batches(1000):
                for row in _batch_rows(batch, path, number):
                    yield f"{path}, row {number}", without_filled(row)
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(path, error, number) from error


def _batch_rows(batch: pyarrow.RecordBatch, path: str, first: int) -> list[dict | RecordError]:
    try:
        return batch.to_pylist()
    except _UNREADABLE:
        return [_row(batch, index, f"{path}, row {first + index}") for index in range(batch.num_rows)]


def _row(batch: pyarrow.RecordBatch, index: int, where: str) -> dict | RecordError:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[index].as_py()
        except _UNREADABLE as error:
            return RecordError(where, name, f"{column.type} that cannot be read ({_brief(error)})", "a value")
    return row


def _readable(path: str, table: datasets.Dataset) -> Iterator[dict]:
    number = 0
    try:
        for row in table:
            yield row
            number += 1
    except _UNREADABLE as error:
        raise _damaged(path, error, number) from error


def _damaged(path: str, error: Exception, number: int) -> SourceError:
    return SourceError(f"data source {path}: found damaged data at row {number} ({_brief(error)}), expected whole data")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _open_table(path: str, split: str) -> datasets.Dataset:
    if os.path.isdir(path):
        try:
            saved = datasets.load_from_disk(path)
        except FileNotFoundError as error:
            raise SourceError(f"data source {path}: a directory, but not one saved by datasets") from error
        except _UNREADABLE as error:
            raise _damaged(path, error, 0) from error
        return _split(saved, path, split)
    if os.path.exists(path):
        raise SourceError(f"data source {path}: expected a file that ends in {', '.join(SUFFIXES)}")
    parent = path.split("/")[0]
    if not _HUB_NAME.fullmatch(path) or path.endswith(SUFFIXES) or os.path.isdir(parent):
        raise SourceError(f"data source {path}: there is no such file or directory")
    try:
        return datasets.load_dataset(path, split=split)
    except Exception as error:  # the Hub's client raises many kinds; all of them mean that there are no rows
        offline = " (HF_HUB_OFFLINE is set, and it is not in the cache)" if datasets.config.HF_HUB_OFFLINE else ""
        raise SourceError(
            f"data source {path}: no local file, and not loaded from the Hub{offline}: {error}"
        ) from error


def _split(saved: datasets.Dataset | datasets.DatasetDict, path: str, split: str) -> datasets.Dataset:
    if isinstance(saved, datasets.Dataset):
        return saved
    if split not in saved:
        raise SourceError(f"data source {path}, key 'split': found '{split}', expected one of {', '.join(saved)}")
    return saved[split]
