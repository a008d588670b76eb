"""Packing of token sequences into rows of a fixed length. Knows numbers only, nothing of tokens' meaning."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain

import numpy as np

IGNORED = -100  # what cross entropy leaves out
STRATEGIES = ("bfd", "concat")


def pack(
    sequences: Sequence[Sequence[int]],
    length: int,
    strategy: str = "bfd",
    labels: Sequence[Sequence[int]] | None = None,
    **columns: Sequence[Sequence[int]],
) -> list[dict[str, np.ndarray]]:
    """Rows of at most `length` tokens, each with input_ids, labels, position_ids (int64) and seq_lengths.

    bfd: best fit decreasing; a sequence is cut only when it is longer than a row (what TRL calls bfd).
    concat: all sequences end to end, cut wherever a row is full (Llama 2's way); only the last row can be shorter.

    `labels` default to the ids; `columns` are further lists with a value per token, packed alongside. Positions
    restart with every piece of a sequence, and the label there becomes -100, since nothing of its own stands before
    it. Raises ValueError for a strategy that is not known, a length below 1, or lists of unequal lengths.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"packing strategy: found {strategy!r}, expected one of {', '.join(STRATEGIES)}")
    if length < 1:
        raise ValueError(f"packing length: found {length}, expected at least 1")
    sizes = np.fromiter(map(len, sequences), np.int64, len(sequences))
    columns = {"input_ids": sequences, "labels": sequences if labels is None else labels} | columns
    flat = {name: _flatten(column, sizes, name) for name, column in columns.items()}
    starts, pieces, per_row = best_fit(sizes, length) if strategy == "bfd" else _concat(sizes, length)
    if not len(pieces):
        return []

    ends = np.cumsum(pieces)
    within = np.arange(ends[-1]) - np.repeat(ends - pieces, pieces)
    order = within + np.repeat(starts, pieces)
    flat = {name: values[order] for name, values in flat.items()} | {"position_ids": within}
    flat["labels"][within == 0] = IGNORED
    piece_cuts = np.cumsum(per_row)[:-1]
    token_cuts = ends[piece_cuts - 1]
    split = {name: np.split(values, token_cuts) for name, values in flat.items()}
    split["seq_lengths"] = np.split(pieces, piece_cuts)
    return [dict(zip(split, row, strict=True)) for row in zip(*split.values(), strict=True)]


def _flatten(column: Sequence[Sequence[int]], sizes: np.ndarray, name: str) -> np.ndarray:
    if len(column) != len(sizes):
        raise ValueError(f"packing: found {len(column)} sequences in '{name}', expected {len(sizes)}")
    for i, (values, size) in enumerate(zip(column, sizes, strict=True)):
        if len(values) != size:
            raise ValueError(f"packing: found {len(values)} values in '{name}' of sequence {i}, expected {size}")
    return np.fromiter(chain.from_iterable(column), np.int64, sizes.sum())


def _concat(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts and lengths of the pieces, and the number of pieces per row: cuts at every sequence and every row."""
    total = int(sizes.sum())
    rows = np.arange(0, total, length)
    starts = np.union1d(np.cumsum(sizes)[sizes > 0] - sizes[sizes > 0], rows)
    return starts, np.diff(starts, append=total), np.bincount(starts // length, minlength=len(rows))


def best_fit(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, lengths and number per row of the pieces, each in the fullest row that still has room, longest first.

    Args:
        sizes: of the sequences, which stand end to end.
    """
    count = -(-sizes // length)  # pieces per sequence; only the last one can be short
    part = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    starts = np.repeat(np.cumsum(sizes) - sizes, count) + part * length
    pieces = np.minimum(np.repeat(sizes, count) - part * length, length)

    rows: list[list[int]] = []
    rooms: list[int] = []  # the different amounts of room left in rows, ascending
    by_room: dict[int, list[int]] = {}
    decreasing = np.argsort(-pieces, kind="stable")
    for piece, size in zip(decreasing.tolist(), pieces[decreasing].tolist(), strict=True):
        place = bisect_left(rooms, size)
        if place == len(rooms):
            row, room = len(rows), length
            rows.append([])
        else:
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        rows[row].append(piece)
        if left := room - size:
            if left not in by_room:
                insort(rooms, left)
            by_room.setdefault(left, []).append(row)
    order = np.fromiter(chain.from_iterable(rows), np.int64, len(pieces))
    return starts[order], pieces[order], np.fromiter(map(len, rows), np.int64, len(rows))
