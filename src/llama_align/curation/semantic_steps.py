"""Steps for near meanings: a sample gives the space and its clusters, tasks place documents, one task chooses.

Memory is bounded: the sample, a task's batch, and the vectors of one partition at a time.
"""

import heapq
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from ..data import write_jsonl
from ..data.opening import expand
from .corpus_steps import within
from .files import Spill, load, partitions_of, read_rows, save
from .ledger import Rule, Tally, total
from .options import Semantic
from .semantic import CHARACTERS, Space, near, nearest
from .words import hash64

BATCH = 256
HELD = 20_000  # vectors before they are spilled
PARTITION = 100_000  # documents of a partition, about


class Fit(PipelineStep):
    """One task: the space and the clusters, from the documents of the smallest hashes."""

    type, name = "curation", "semantic fit"

    def __init__(self, documents: Path, folder: Path, ledgers: Path, before: str, options: Semantic):
        super().__init__()
        self.documents, self.folder, self.ledgers = Path(documents), Path(folder), Path(ledgers)
        self.before, self.options = before, options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        drawn = heapq.nsmallest(self.options.sample, self._drawn())
        texts = [text for _, _, text in sorted(drawn, key=lambda row: row[1])]
        if texts:
            clusters = -(-total(self.ledgers, self.before).documents_out // self.options.cluster)
            model = self.options.model and expand(self.options.model)
            Space.fit(texts, model, self.options.dimensions, clusters).save(self.folder)

    def _drawn(self) -> Iterator[tuple[int, int, str]]:
        for path in sorted(self.documents.glob("*.jsonl")):
            for row in read_rows(path):
                yield hash64(f"semantic {row['place']}"), row["place"], row["text"][:CHARACTERS]


class Place(PipelineStep):
    """Spills the vector, cluster and rank of each of a task's documents."""

    type, name = "curation", "semantic place"

    def __init__(self, documents: Path, folder: Path, ledgers: Path, before: str, options: Semantic):
        super().__init__()
        self.documents, self.folder, self.ledgers = Path(documents), Path(folder), Path(ledgers)
        self.before, self.options = before, options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        rows = read_rows(self.documents / f"{rank:05d}.jsonl")
        batch = list(islice(rows, BATCH))
        if not batch:
            return
        space = Space.load(self.folder, self.options.model and expand(self.options.model))
        columns = [("cluster", "<u8"), ("place", "<u8"), ("quality", "<f8"), ("tokens", "<u4")]
        kind = np.dtype([*columns, ("vector", "<f4", (len(space.mean),))])
        parts = 1 << (total(self.ledgers, self.before).documents_out // PARTITION).bit_length()
        spill = Spill(self.folder / "placed", rank, kind, parts, HELD)
        while batch:
            found = np.empty(len(batch), kind)
            found["vector"] = space.vectors([row["text"] for row in batch])
            found["cluster"] = [hash64(str(cluster)) for cluster in nearest(found["vector"], space.centres)]
            for name in ("place", "tokens"):
                found[name] = [row[name] for row in batch]
            found["quality"] = [row.get("scores", {}).get("quality", 0.0) for row in batch]
            spill.add(found)
            batch = list(islice(rows, BATCH))
        spill.flush()


class Choose(PipelineStep):
    """One task: of each cluster the best stay that are far enough from what stays; of equal ones the longest."""

    type, name = "curation", "semantic choose"

    def __init__(self, folder: Path, options: Semantic):
        super().__init__()
        self.folder, self.options = Path(folder), options

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        gone: list[tuple[int, int, float]] = []
        for partition in partitions_of(self.folder / "placed"):
            rows = load(partition)
            rows = rows[
                np.lexsort((rows["place"], -rows["tokens"].astype(np.int64), -rows["quality"], rows["cluster"]))
            ]
            for group in np.split(rows, np.flatnonzero(np.diff(rows["cluster"])) + 1):
                places = group["place"].tolist()
                found = near(np.ascontiguousarray(group["vector"]), self.options.similarity)
                gone += [(places[number], places[stays], alike) for number, stays, alike in found]
        gone.sort()
        listed = ({"place": p, "stays": s, "cosine": round(alike, 4)} for p, s, alike in gone)
        write_jsonl(self.folder / "gone.jsonl", listed)
        save(self.folder / "gone.npy", np.array([place for place, _, _ in gone], np.uint64))


class Distinct(Rule):
    """Drops the documents that `Choose` named."""

    def __init__(self, folder: Path, ledgers: Path):
        super().__init__("semantic", ledgers)
        self.decisions = Path(folder)

    def start(self, rank: int, world_size: int) -> None:
        self.gone = np.load(self.decisions / "gone.npy", allow_pickle=False)

    def judge(self, document: Document, tally: Tally) -> str | None:
        return "near in meaning" if within(self.gone, document.metadata["place"]) else None
