"""The last stage: documents of all tasks in one order, within languages' and topics' shares, as files, ledger, card.

One task, a document of each shard in memory at a time.
"""

import heapq
import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from ..data import write_jsonl
from ..data.shares import rates
from ..runtime.files import remove_stale_parts, whole, write_json, write_text
from .files import read_rows
from .kinds import KINDS
from .ledger import EXAMPLES, Tally, seconds, total, write
from .options import Languages, Output, Topics
from .page import data_card, page
from .words import hash64

LOWEST, HIGHEST = (-np.inf, 0), (np.inf, 0)
GROUP = 1000  # rows of a table that are held
FIELDS = ("text", "source", "url", "date", "language", "scores")


class Finish(PipelineStep):
    type, name = "curation", "finish"

    def __init__(self, shards: Path, output: Path, ledgers: Path, steps: list[str], options: Output,
                 languages: Languages | None, topics: Topics | None, title: str, sources: list[dict],
                 kinds: tuple[str, ...]):  # fmt: skip
        super().__init__()
        self.shards, self.output, self.ledgers = Path(shards), Path(output), Path(ledgers)
        self.steps, self.options, self.languages, self.topics = steps, options, languages, topics
        self.title, self.sources, self.kinds = title, sources, kinds

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        remove_stale_parts(self.output, before=time.time())  # of a run that was killed here
        self._balance()
        for stale in self.output.glob("corpus-*"):
            stale.unlink()
        files = self._write()
        steps = [total(self.ledgers, name) for name in [*self.steps, "balance"]]
        times = {name: round(seconds(self.ledgers, name), 3) for name in self.steps}
        if "divergence" in times:
            times["divergence"] = round(times["divergence"] + seconds(self.ledgers, "divergence-measured"), 3)
        rows = [_readable(step) for step in steps]
        write_json(self.output / "ledger.json", {"steps": rows, "files": files, "languages": self.counts})
        write_json(self.output / "timings.json", times)
        write_json(self.output / "metrics.json", {"documents": steps[-1].documents_out, "tokens": steps[-1].tokens_out})
        listed = [row for path in sorted((self.ledgers / "decontamination").glob("*.list")) for row in read_rows(path)]
        if "decontamination" in self.steps:
            listed.sort(key=lambda row: json.dumps(row, sort_keys=True))
            write_jsonl(self.output / "contaminated.jsonl", listed)
        for name, text in (
            ("ledger.html", page(self.title, rows, times, self.counts)),
            ("README.md", data_card(self.title, rows, self.counts, self.sources, self.options.format)),
        ):
            write_text(self.output / name, text)

    def _rows(self) -> Iterator[dict]:
        shards = [read_rows(path) for path in sorted(self.shards.glob("*.jsonl"))]
        return heapq.merge(*shards, key=lambda row: row["place"])

    def _balance(self) -> None:
        """Decides the score a document of each language needs, and the rate at which each topic stays."""
        wanted = (self.languages and self.languages.max_tokens) or {}
        held: dict[str, list[tuple[tuple[float, int], int]]] = {code: [] for code in wanted}
        topics: Counter[str] = Counter()
        for row in self._rows():
            if row.get("language") in held:
                held[row["language"]].append((_rank(row), row["tokens"]))
            if "topic" in row:
                topics[row["topic"]] += row["tokens"]
        self.least = {code: _least(rows, wanted[code]) for code, rows in held.items()}
        self.rates = rates(topics, (self.topics and self.topics.targets) or {})

    def _kept(self, kind: str, tally: Tally) -> Iterator[dict]:
        """Records of a kind of pages."""
        for row in self._rows():
            if row.get("kind", KINDS[0]) != kind:
                continue
            tally.documents_in += 1
            tally.characters_in += len(row["text"])
            tally.tokens_in += row["tokens"]
            reason = self._reason(row)
            if reason:
                tally.drop(reason, row.get("url") or row["id"], row["text"])
                continue
            tally.documents_out += 1
            tally.characters_out += len(row["text"])
            tally.tokens_out += row["tokens"]
            counts = self.counts.setdefault(row.get("language", "und"), [0, 0])
            counts[0] += 1
            counts[1] += row["tokens"]
            yield {name: row[name] for name in FIELDS if row.get(name)}

    def _reason(self, row: dict) -> str | None:
        if _rank(row) < self.least.get(row.get("language"), LOWEST):
            return f"more {row['language']} than asked for"
        rate = self.rates.get(row.get("topic"), 1.0)
        if rate < 1 and hash64(f"topic {row['place']}") >= rate * 2.0**64:
            return f"topic over its share: {row['topic']}"
        return None

    def _write(self) -> list[str]:
        """The files' names: a kind's documents are in files of their own; one without rows where nothing is left."""
        names, tally, self.counts = [], Tally("balance"), {}
        for kind in self.kinds:
            kept, number = self._kept(kind, tally), 0
            row = next(kept, None)
            while row is not None or not names:
                part = chain(() if row is None else (row,), islice(kept, self.options.documents - 1))
                own = "" if kind == KINDS[0] else f"{kind}-"
                names.append(f"corpus-{own}{number:05d}.{self.options.format}")
                (_parquet if self.options.format == "parquet" else write_jsonl)(self.output / names[-1], part)
                row, number = next(kept, None), number + 1
        write(self.ledgers, tally, 0.0, 0)
        return names


def _parquet(path: Path, rows: Iterator[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in FIELDS])
    with whole(path) as file, pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while batch := list(islice(rows, GROUP)):
            texts = [row | ({"scores": json.dumps(row["scores"])} if "scores" in row else {}) for row in batch]
            writer.write_table(pyarrow.Table.from_pylist(texts, schema))


def _rank(row: dict) -> tuple[float, int]:
    """What orders a language's documents: the quality score, or how certain the language is; then a hash."""
    scores = row.get("scores", {})
    return scores.get("quality", scores.get("language", 0.0)), hash64(f"rank {row['place']}")


def _least(rows: list[tuple[tuple[float, int], int]], tokens: int) -> tuple[float, int]:
    """The rank down to which the best documents hold at most so many tokens."""
    held, least = 0, HIGHEST
    for score, count in sorted(rows, reverse=True):
        held += count
        if held > tokens:
            return least
        least = score
    return LOWEST


def _readable(step: Tally) -> dict:
    row = step.to_dict()
    row["examples"] = {reason: [list(e[1:]) for e in found[:EXAMPLES]] for reason, found in row["examples"].items()}
    return row
