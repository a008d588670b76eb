"""What stages leave each other: documents as JSON lines, and spills of numbers by partition."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..runtime.files import whole


def read_rows(path: Path) -> Iterator[dict]:
    """Rows that a stage wrote, unchecked: a stage's files are whole, and ours."""
    with open(path, "rb") as file:
        yield from map(json.loads, file)


def save(path: Path, rows: np.ndarray) -> None:
    with whole(path) as file:
        np.save(file, rows, allow_pickle=False)


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
            save(self.folder / f"{place:03d}" / f"{self.rank:05d}-{self.parts:05d}.npy", rows[places == place])
        self.rows, self.held, self.parts = [], 0, self.parts + 1


def partitions_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def load(partition: Path) -> np.ndarray:
    """All rows of one partition."""
    return np.concatenate([np.load(path, allow_pickle=False) for path in sorted(partition.glob("*.npy"))])
