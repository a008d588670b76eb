"""Files of a stage: documents as JSON lines that are whole or absent, spills of numbers; a full disk has a name.

A datatrove task that is killed leaves no file of its own; one that ends has its bytes on the disk.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np


class DiskError(OSError):
    """A file that could not be written whole."""


@contextmanager
def whole(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A file that appears with all its bytes, or not at all: written beside, on the disk, renamed.

    Raises:
        DiskError: the disk is full or refuses; the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with open(partial, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise DiskError(error.errno, f"{path}: not written, {os.strerror(error.errno)}") from error
        raise
    finally:
        if not os.path.islink(partial):
            partial.unlink(missing_ok=True)


def write_rows(path: Path, rows: Iterable[dict]) -> int:
    """Writes rows as JSON lines and returns how many."""
    count = 0
    with whole(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            count += 1
    return count


def read_rows(path: Path) -> Iterator[dict]:
    with open(path, "rb") as file:
        yield from map(json.loads, file)


def write_json(path: Path, content: object) -> None:
    with whole(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True).encode() + b"\n")


class Spill:
    """Rows of numbers by the partition of their first field, a hash; written when `limit` rows are held.

    Args:
        folder: `<partition>/<rank>-<part>.npy`. partitions: a power of two.
    """

    def __init__(self, folder: Path, rank: int, dtype: np.dtype, partitions: int = 16, limit: int = 200_000):
        self.folder, self.rank, self.dtype, self.limit = folder, rank, np.dtype(dtype), limit
        self.shift = np.uint64(64 - partitions.bit_length() + 1)
        self.rows: list[np.ndarray] = []
        self.held = self.parts = 0
        for stale in folder.glob(f"*/{rank:05d}-*.npy"):  # of a task that was killed
            stale.unlink()

    def add(self, rows: np.ndarray) -> None:
        self.rows.append(rows.astype(self.dtype, copy=False))
        self.held += len(rows)
        if self.held >= self.limit:
            self.flush()

    def flush(self) -> None:
        if not self.held:
            return
        rows = np.concatenate(self.rows)
        first = rows[self.dtype.names[0]] if self.dtype.names else rows
        # a shift by 64 is undefined, and one partition needs none
        places = np.zeros(len(rows), np.uint64) if self.shift >= 64 else first.astype(np.uint64) >> self.shift
        for place in np.unique(places):
            with whole(self.folder / f"{place:03d}" / f"{self.rank:05d}-{self.parts:05d}.npy") as file:
                np.save(file, rows[places == place], allow_pickle=False)
        self.rows, self.held, self.parts = [], 0, self.parts + 1


def partitions_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def load(partition: Path) -> np.ndarray:
    """All rows of one partition."""
    return np.concatenate([np.load(path, allow_pickle=False) for path in sorted(partition.glob("*.npy"))])
