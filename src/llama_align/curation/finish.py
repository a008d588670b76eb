"""The last stage: documents of all tasks in one order, within languages' and topics' shares, as files, ledger, card.

One task, a document of each shard in memory at a time.
"""

import gzip
import heapq
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from .files import read_rows, whole, write_json
from .ledger import EXAMPLES, Tally, seconds, total, write
from .options import Languages, Output, Topics
from .page import data_card, page
from .words import hash64

LOWEST, HIGHEST = (-np.inf, 0), (np.inf, 0)
FIELDS = ("text", "source", "url", "date", "language", "scores")


class Finish(PipelineStep):
    type, name = "curation", "finish"

    def __init__(self, shards: Path, output: Path, ledgers: Path, steps: list[str], options: Output,
                 languages: Languages | None, topics: Topics | None, title: str, sources: list[dict]):  # fmt: skip
        super().__init__()
        self.shards, self.output, self.ledgers = Path(shards), Path(output), Path(ledgers)
        self.steps, self.options, self.languages, self.topics = steps, options, languages, topics
        self.title, self.sources = title, sources

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
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
            with whole(self.output / "contaminated.jsonl") as file:
                file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in listed)
        for name, text in (
            ("ledger.html", page(self.title, rows, times, self.counts)),
            ("README.md", data_card(self.title, rows, self.counts, self.sources, self.options.format)),
        ):
            with whole(self.output / name) as file:
                file.write(text.encode())

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

    def _kept(self) -> Iterator[dict]:
        tally, self.counts = Tally("balance"), {}
        for row in self._rows():
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
            record = {name: row[name] for name in FIELDS if row.get(name)}
            if record.get("scores", {}) == {}:
                record.pop("scores", None)
            yield record
        write(self.ledgers, tally, 0.0, 0)

    def _reason(self, row: dict) -> str | None:
        if _rank(row) < self.least.get(row.get("language"), LOWEST):
            return f"more {row['language']} than asked for"
        rate = self.rates.get(row.get("topic"), 1.0)
        if rate < 1 and hash64(f"topic {row['place']}") >= rate * 2.0**64:
            return f"topic over its share: {row['topic']}"
        return None

    def _write(self) -> list[str]:
        names, batch = [], []
        for record in self._kept():
            batch.append(record)
            if len(batch) == self.options.documents:
                names.append(self._part(len(names), batch))
                batch = []
        if batch or not names:
            names.append(self._part(len(names), batch))
        return names

    def _part(self, number: int, records: list[dict]) -> str:
        name = f"corpus-{number:05d}.{self.options.format}"
        with whole(self.output / name) as file:
            if self.options.format == "parquet":
                import pyarrow
                import pyarrow.parquet

                columns = {key: [record.get(key) for record in records] for key in FIELDS}
                columns["scores"] = [json.dumps(scores) if scores else None for scores in columns["scores"]]
                table = pyarrow.table({key: pyarrow.array(values, pyarrow.string()) for key, values in columns.items()})
                pyarrow.parquet.write_table(table, file, compression="zstd")
            else:
                # neither name nor time in the header: equal rows give equal bytes
                with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                    for record in records:
                        packed.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        return name


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


def rates(tokens: dict[str, int], targets: dict[str, float]) -> dict[str, float]:
    """For each topic the share of its documents to keep, so that none has more than its target of what is left."""
    kept = dict(tokens)
    for _ in range(200):
        whole_of = sum(kept.values())
        over = {
            t: targets[t] * (whole_of - kept[t]) / (1 - targets[t]) for t in targets if t in kept and targets[t] < 1
        }
        changed = {t: min(kept[t], allowed) for t, allowed in over.items()}
        if all(abs(kept[t] - value) < 1e-6 * max(1, kept[t]) for t, value in changed.items()):
            break
        kept |= changed
    return {topic: kept[topic] / tokens[topic] for topic in targets if tokens.get(topic)}


def _readable(step: Tally) -> dict:
    row = step.to_dict()
    row["examples"] = {reason: [list(e[1:]) for e in found[:EXAMPLES]] for reason, found in row["examples"].items()}
    return row
