"""Rows of mapped tokens as data sets for Trainer: of a plan's steps, of whole sources, of held-out sources.

Knows numbers; nothing of models. A row's positions restart where a document begins, as in `data.packing`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..data import SourceError
from ..data.packing import IGNORED, STRATEGIES, best_fit
from .plan import Plan
from .sources import Source
from .tokens import Tokens

CHECKED = 1 << 20  # tokens looked through at once


def row_of(
    ids: np.ndarray, begins: np.ndarray, length: int, pad: int = 0, window: int | None = None
) -> dict[str, np.ndarray]:
    """A row: input_ids, labels and position_ids [length, int64].

    Args:
        begins: where documents begin among the ids; the row itself begins a piece, too. pad: fills the row up, as a
            document of its own without labels. window: positions also restart at its multiples, with their labels.
    """
    filled = len(ids)
    pieces = np.union1d(begins, [0, *([filled] if filled < length else [])]).astype(np.int64)
    labels = np.full(length, IGNORED)
    labels[:filled] = ids
    labels[pieces] = IGNORED  # nothing of its own stands before it
    if window:
        pieces = np.union1d(pieces, np.arange(0, length, window))
    positions = np.arange(length) - np.repeat(pieces, np.diff(pieces, append=length))
    ids = np.concatenate([ids, np.full(length - filled, pad, np.int64)])
    return {"input_ids": ids, "labels": labels, "position_ids": positions}


class StepRows(Dataset):
    """Item i is a process's share of a step, its rows stacked: process i % processes of step i // processes.

    An item has `source` [rows] beside the row's own, the number of the source each row is of; and with a plan that may
    grow, `portions`, how many had been taken into it when the item was read. Trainer reads ahead of a gate: there are
    items of steps that may never come.

    Raises:
        SourceError: rows of a step that the processes cannot share evenly; or, where a row is read, an id that is not
            in the vocabulary.
    """

    def __init__(self, plan: Plan, processes: int, vocabulary: int):
        self.plan, self.processes, self.vocabulary = plan, processes, vocabulary
        for stage in plan.stages:
            if stage.rows % processes:
                raise SourceError(
                    f"{stage.where}, key 'batch': found {stage.rows} rows of {stage.context} for {processes} "
                    "processes, expected as many for each"
                )

    def __len__(self) -> int:
        return self.plan.time.most_steps * self.processes

    def __getitem__(self, item: int) -> dict[str, np.ndarray]:
        step, process = divmod(item, self.processes)
        if not 0 <= item < len(self):
            raise IndexError(item)
        step = min(step, self.plan.steps - 1)
        rows, stage = self.plan.rows(step, process, self.processes), self.plan.stage(step)
        made = []
        for row in rows:
            tokens = self.plan.sources[row.source].tokens
            read = tokens.read(row.start, stage.context)
            _check_ids(read[0], tokens, row.start, self.vocabulary)
            made.append(row_of(*read, stage.context, window=stage.window))
        stacked = {key: np.stack([row[key] for row in made]) for key in made[0]}
        stacked["source"] = np.array([row.source for row in rows])
        return stacked | ({"portions": np.array(len(self.plan.time.taken))} if self.plan.may_grow else {})


class SourceRows(Dataset):
    """The rows of sources: end to end and cut where a row is full (concat), or of whole documents (bfd).

    The same rows as `data.document_rows`. A row read by `apart` holds tokens of one source alone and has its number as
    `source`.

    Args:
        apart: whether rows end where a source ends.

    Raises:
        SourceError: a packing that is not known; or, where a row is read, an id that is not in the vocabulary.
    """

    def __init__(self, sources: Sequence[Source], length: int, packing: str, pad: int, vocabulary: int, apart=False):
        if packing not in STRATEGIES:
            raise SourceError(f"packing: found {packing!r}, expected one of {', '.join(STRATEGIES)}")
        self.sources, self.length, self.pad, self.vocabulary = list(sources), length, pad, vocabulary
        self.names = list(dict.fromkeys(source.name for source in sources)) if apart else []
        groups = [[source] for source in sources] if apart else [list(sources)]
        self._streams = [_Stream([source.tokens for source in group]) for group in groups]
        self._packs = [best_fit(stream.sizes(), length) if packing == "bfd" else None for stream in self._streams]
        rows = [
            -(-stream.tokens // length) if pack is None else len(pack[2])
            for stream, pack in zip(self._streams, self._packs, strict=True)
        ]
        self._firsts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._pieces = [None if pack is None else np.concatenate([[0], np.cumsum(pack[2])]) for pack in self._packs]

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, item: int) -> dict[str, Any]:
        if not 0 <= item < len(self):
            raise IndexError(item)
        group = int(np.searchsorted(self._firsts, item, "right")) - 1
        row = self._row(group, item - int(self._firsts[group]))
        return row | {"source": self.names.index(self.sources[group].name)} if self.names else row

    def _row(self, group: int, number: int) -> dict[str, np.ndarray]:
        stream, pack = self._streams[group], self._packs[group]
        if pack is None:
            ids, begins = stream.read(number * self.length, self.length, self.vocabulary)
        else:
            starts, sizes = (part[slice(*self._pieces[group][number : number + 2])] for part in pack[:2])
            pieces = [stream.read(*map(int, one), self.vocabulary)[0] for one in zip(starts, sizes, strict=True)]
            ids, begins = np.concatenate(pieces), np.cumsum(sizes) - sizes
        return row_of(ids, begins, self.length, self.pad)

    def counted(self) -> dict[str, dict[str, int]]:
        """By number of `source` its name, bytes of text (0: not known) and tokens that no row keeps from prediction."""
        found = {name: {"bytes": 0, "predicted": 0} for name in self.names}
        for source in self.sources if self.names else ():
            own, one = found[source.name], source.tokens
            own["bytes"] += one.bytes or 0
            own["predicted"] += one.tokens - one.documents
        for source in self.sources if self.names else ():  # of one name, one whose text nobody counted is enough
            if not source.tokens.bytes:
                found[source.name]["bytes"] = 0
        return found

    def check(self) -> None:
        """Reads all ids. Raises SourceError for one that is not in the vocabulary."""
        for stream in self._streams:
            for start in range(0, stream.tokens, CHECKED):
                stream.read(start, CHECKED, self.vocabulary)


class _Stream:
    """Sources end to end."""

    def __init__(self, sources: list[Tokens]):
        self._sources = sources
        self._firsts = np.concatenate([[0], np.cumsum([source.tokens for source in sources])]).astype(np.int64)

    @property
    def tokens(self) -> int:
        return int(self._firsts[-1])

    def sizes(self) -> np.ndarray:
        return np.concatenate([source.sizes() for source in self._sources])

    def read(self, start: int, length: int, vocabulary: int) -> tuple[np.ndarray, np.ndarray]:
        ids, begins, end = [], [], min(start + length, self.tokens)
        number, at = int(np.searchsorted(self._firsts, start, "right")) - 1, start
        while at < end:
            source, first = self._sources[number], int(self._firsts[number])
            found, starts = source.read(at - first, end - at)
            _check_ids(found, source, at - first, vocabulary)
            ids.append(found)
            begins.append(starts + at - start)
            number, at = number + 1, at + len(found)
        return np.concatenate(ids), np.concatenate(begins)


def _check_ids(ids: np.ndarray, source: Tokens, start: int, vocabulary: int) -> None:
    if int(ids.max()) >= vocabulary or int(ids.min()) < 0:
        first, last = source.documents_in(start, len(ids))
        found = int(ids.max()) if int(ids.max()) >= vocabulary else int(ids.min())
        raise SourceError(
            f"data source {source.name}, documents {first} to {last}: found the id {found}, expected ids below "
            f"{vocabulary}, the vocabulary"
        )
