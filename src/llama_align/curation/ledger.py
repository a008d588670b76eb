"""What a step did: documents, characters and tokens in and out, what each rule dropped, with examples.

Equal inputs give equal ledgers for any number of tasks: counts are sums, examples those of the smallest hashes. Seconds
depend on the machine and stand in a file of their own.
"""

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from ..runtime.files import write_json
from .words import hash64, token_count

EXAMPLES = 20
EXCERPT = 240
COUNTS = ("documents_in", "documents_out", "characters_in", "characters_out", "tokens_in", "tokens_out")


@dataclass
class Tally:
    """The counts of one step in one task, or in all."""

    name: str
    documents_in: int = 0
    documents_out: int = 0
    characters_in: int = 0
    characters_out: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    dropped: Counter = field(default_factory=Counter)
    changed: Counter = field(default_factory=Counter)
    examples: dict[str, list] = field(default_factory=dict)  # reason -> [hash, name, excerpt], smallest hashes first

    def example(self, reason: str, name: str, excerpt: str) -> None:
        held = self.examples.setdefault(reason, [])
        row = [hash64(f"{reason}\n{name}"), name, " ".join(excerpt[: 4 * EXCERPT].split())[:EXCERPT]]
        if len(held) < EXAMPLES or row[0] < held[-1][0]:
            held.append(row)
            held.sort()
            del held[EXAMPLES:]

    def drop(self, reason: str, name: str, excerpt: str) -> None:
        self.dropped[reason] += 1
        self.example(reason, name, excerpt)

    def __add__(self, other: "Tally") -> "Tally":
        total = Tally(self.name, *(getattr(self, name) + getattr(other, name) for name in COUNTS))
        total.dropped, total.changed = self.dropped + other.dropped, self.changed + other.changed
        for reason in sorted({*self.examples, *other.examples}):
            both = sorted(self.examples.get(reason, []) + other.examples.get(reason, []))
            total.examples[reason] = both[:EXAMPLES]
        return total

    def to_dict(self) -> dict:
        return asdict(self) | {
            "dropped": dict(sorted(self.dropped.items())),
            "changed": dict(sorted(self.changed.items())),
            "examples": dict(sorted(self.examples.items())),
        }

    @classmethod
    def from_dict(cls, row: dict) -> "Tally":
        return cls(**row | {"dropped": Counter(row["dropped"]), "changed": Counter(row["changed"])})


class Rule(PipelineStep):
    """A datatrove step that keeps, changes or drops documents and writes what it did.

    Args:
        folder: where ledgers go, `<name>/<rank>.json`.
    """

    type = "curation"

    def __init__(self, name: str, folder: Path):
        super().__init__()
        self.name, self.folder = name, Path(folder)

    def start(self, rank: int, world_size: int) -> None:
        """Before the first document of a task."""

    def end(self) -> None:
        """After the last one."""

    def judge(self, document: Document, tally: Tally) -> str | None:
        """None, or why the document goes; the text may be replaced."""
        raise NotImplementedError

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        tally, spent = Tally(self.name), 0.0
        self.start(rank, world_size)
        for document in data:
            started = time.perf_counter()
            before = document.text
            tally.documents_in += 1
            tally.characters_in += len(before)
            tally.tokens_in += document.metadata.get("tokens", 0)
            reason = self.judge(document, tally)
            if reason is None:
                if document.text is not before:
                    document.metadata["tokens"] = token_count(document.text)
                tally.documents_out += 1
                tally.characters_out += len(document.text)
                tally.tokens_out += document.metadata.get("tokens", 0)
            else:
                tally.drop(reason, name_of(document), before if isinstance(before, str) else "")
            spent += time.perf_counter() - started
            if reason is None:
                yield document
        self.end()
        write(self.folder, tally, spent, rank)


def name_of(document: Document) -> str:
    return document.metadata.get("url") or document.id


def write(folder: Path, tally: Tally, seconds: float, rank: int) -> None:
    write_json(folder / tally.name / f"{rank:05d}.json", tally.to_dict())
    write_json(folder / tally.name / f"{rank:05d}.seconds", seconds)


def total(folder: Path, name: str) -> Tally:
    """The sum over the tasks of a step."""
    tallies = [Tally.from_dict(json.loads(path.read_text())) for path in sorted((folder / name).glob("*.json"))]
    return sum(tallies[1:], tallies[0]) if tallies else Tally(name)


def seconds(folder: Path, name: str) -> float:
    return sum(json.loads(path.read_text()) for path in (folder / name).glob("*.seconds"))
