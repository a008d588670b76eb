"""Rows from a local file, a directory saved by `datasets`, or the Hub, each with the words for where it stands.

Knows paths and the `datasets` library; not what a row means.
"""

import os
import re
from collections.abc import Iterator

import datasets

from .jsonl import SUFFIXES, read_jsonl
from .records import SourceError

Row = tuple[str, dict]  # where it stands, and what it holds

_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def expand(path: str) -> str:
    """The path with environment variables and `~` replaced. Raises ValueError for a variable without a value."""

    def value(match: re.Match) -> str:
        name, default = match[1] or match[3], match[2]
        if (found := os.environ.get(name, default)) is None:
            raise SourceError(f"data source {path}: the environment variable {name} is not set")
        return found

    return os.path.expanduser(_VARIABLE.sub(value, path))


def open_rows(path: str, split: str = "train") -> Iterator[Row]:
    """Yields (where, row) from a file, a saved directory or the Hub.

    Raises SourceError for a local path that is not there or of no known form, a missing split, or a Hub data set that
    cannot be loaded.
    """
    path = expand(path)
    if os.path.isfile(path) and path.endswith(SUFFIXES):
        return ((f"{path}, line {number}", row) for number, row in read_jsonl(path))
    table = _open_table(path, split)
    return ((f"{path}, row {index}", row) for index, row in enumerate(table))


def _open_table(path: str, split: str) -> datasets.Dataset:
    if path.endswith(".parquet") and os.path.isfile(path):
        return datasets.load_dataset("parquet", data_files=path, split="train")
    if os.path.isdir(path):
        try:
            saved = datasets.load_from_disk(path)
        except FileNotFoundError as error:
            raise SourceError(f"data source {path}: a directory, but not one saved by datasets") from error
        return _split(saved, path, split)
    if os.path.exists(path):
        raise SourceError(f"data source {path}: expected a file that ends in {', '.join(SUFFIXES)} or .parquet")
    parent = path.split("/")[0]
    if not _HUB_NAME.fullmatch(path) or path.endswith((*SUFFIXES, ".parquet", ".json")) or os.path.isdir(parent):
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
