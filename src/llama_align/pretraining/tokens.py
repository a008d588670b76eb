"""Tokenised documents, mapped: a source of any size, of which a process holds a few numbers per record batch.

Knows Arrow files; knows nothing of shares, order or tokenizers.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from ..data import SourceError
from ..data.opening import expand

COLUMN = "ids"
MANIFEST = "manifest.json"
DIGEST = re.compile("[0-9a-f]{16}")


class Tokens:
    """The documents of a source end to end.

    Args:
        name: what reports call it. columns: the lists of ids, chunk by chunk. bytes: of the documents' text in UTF-8,
            None where nobody counted. tokenizer: digest of what made the ids, None where nobody knows.

    Raises:
        SourceError: a column that holds no lists of whole numbers, or nothing.
    """

    def __init__(
        self, name: str, columns: Iterable[pa.Array], bytes: int | None = None, tokenizer: str | None = None
    ) -> None:
        self.name, self.bytes, self.tokenizer = name, bytes, tokenizer
        self._values, self._offsets = [], []
        for column in columns:
            _check_lists(column, name)
            if len(column):
                self._values.append(column.values.to_numpy(zero_copy_only=True))
                self._offsets.append(column.offsets.to_numpy(zero_copy_only=True))
        sizes = [int(offsets[-1]) - int(offsets[0]) for offsets in self._offsets]
        documents = [len(offsets) - 1 for offsets in self._offsets]
        self._first_token = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self._first_document = np.concatenate([[0], np.cumsum(documents, dtype=np.int64)]).astype(np.int64)
        if not self.tokens:
            raise SourceError(f"data source {name}: found no tokens, expected some")

    @property
    def tokens(self) -> int:
        return int(self._first_token[-1])

    @property
    def documents(self) -> int:
        return int(self._first_document[-1])

    def read(self, start: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of `length` tokens from `start` [int64], fewer at the end, and where among them documents begin."""
        ids, begins, end = [], [], min(start + length, self.tokens)
        chunk, at = self._chunk(start), start
        while at < end:
            offsets, first = self._offsets[chunk], int(self._first_token[chunk])
            stop = min(end, int(self._first_token[chunk + 1]))
            base = int(offsets[0]) - first
            ids.append(self._values[chunk][at + base : stop + base])
            low, high = _between(offsets, at + base, stop + base)
            begins.append(offsets[low:high].astype(np.int64) - base - start)
            chunk, at = chunk + 1, stop
        if not ids:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(ids).astype(np.int64), np.unique(np.concatenate(begins))

    def documents_in(self, start: int, length: int) -> tuple[int, int]:
        """The first and the last document, from 0, of which any of these tokens are."""
        return self._document(start), self._document(min(start + length, self.tokens) - 1)

    def sizes(self) -> np.ndarray:
        """Tokens of every document."""
        return np.concatenate([np.diff(offsets) for offsets in self._offsets]).astype(np.int64)

    def _chunk(self, token: int) -> int:
        return int(np.searchsorted(self._first_token, token, "right")) - 1

    def _document(self, token: int) -> int:
        chunk = self._chunk(token)
        offsets = self._offsets[chunk]
        place = token - int(self._first_token[chunk]) + int(offsets[0])
        return int(self._first_document[chunk]) + int(np.searchsorted(offsets, place, "right")) - 1


def _between(offsets: np.ndarray, low: int, high: int) -> tuple[int, int]:
    # bounds of the column's own type, or numpy would convert the whole column
    return tuple(int(np.searchsorted(offsets, offsets.dtype.type(bound), "left")) for bound in (low, high))


def _check_lists(column: pa.Array, name: str) -> None:
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not pa.types.is_integer(kind.value_type):
        raise SourceError(f"data source {name}: found a column of {kind}, expected lists of whole numbers")
    if column.null_count or column.values.null_count:
        raise SourceError(f"data source {name}: found nothing in a row of its ids, expected a list of whole numbers")


def mapped(file: Path) -> list[pa.Array]:
    """The ids in an Arrow stream, record batch by record batch, mapped."""
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        return [batch.column(COLUMN) for batch in stream]


def folder_of(path: str) -> Path | None:
    """The folder of token files that a path names, whole or without the digest at its end; None where there is none.

    Raises:
        SourceError: several of them, or one beside another that is not finished.
    """
    path = Path(expand(path))
    found = [path] if (path / MANIFEST).is_file() else []
    if not path.exists():
        near = [folder for folder in path.parent.glob("*-*") if folder.name.rpartition("-")[0] == path.name]
        found = [folder for folder in near if (folder / MANIFEST).is_file()]
        begun = [folder for folder in near if folder not in found and DIGEST.fullmatch(folder.name.rpartition("-")[2])]
        if len(found) > 1 or (found and begun):
            names = [f"{folder.name}{' (unfinished)' * (folder in begun)}" for folder in sorted([*found, *begun])]
            raise SourceError(f"data source {path}: found {', '.join(names)}, expected one; name it whole")
    return found[0] if found and _is_ours(found[0]) else None


def _is_ours(folder: Path) -> bool:
    content = json.loads((folder / MANIFEST).read_text())
    return isinstance(content, dict) and "tokenizer" in content


def open_folder(folder: Path, name: str | None = None) -> Tokens:
    """The token files of a folder as `write.py` left it.

    Raises:
        SourceError: a file that is not there or of another size.
    """
    content = json.loads((folder / MANIFEST).read_text())
    columns = []
    for file, row in content["files"].items():
        size = (folder / file).stat().st_size if (folder / file).is_file() else "no such file"
        if size != row["size"]:
            raise SourceError(f"{folder / file}: found {size}, expected {row['size']} bytes; tokenise it again")
        columns += mapped(folder / file)
    return Tokens(name or content["name"], columns, content["bytes"], content["tokenizer"])


def open_saved(path: str, column: str, name: str, split: str = "train") -> Tokens:
    """A data set that was tokenised elsewhere: a directory saved by `datasets`, with a column of ids.

    Raises:
        SourceError: no such directory, split or column, or rows in another order than they are stored in.
    """
    try:
        saved = datasets.load_from_disk(expand(path))
    except FileNotFoundError as error:
        raise SourceError(f"data source {path}: found no directory saved by datasets, expected one") from error
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise SourceError(f"data source {path}, key 'split': found '{split}', expected one of {', '.join(saved)}")
        saved = saved[split]
    if column not in saved.column_names:
        named = ", ".join(saved.column_names)
        raise SourceError(f"data source {path}, key 'columns.ids': found {column!r}, expected one of {named}")
    if saved._indices is not None:
        raise SourceError(f"data source {path}: found rows that were selected or shuffled, expected flatten_indices()")
    return Tokens(name, saved.data.column(column).chunks)
