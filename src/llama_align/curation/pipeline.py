"""The pipeline: which stages there are, what each reads and writes, and how it goes on after a kill.

A stage's tasks write files that are whole or absent and markers when they are done; a second run of the same options
does what is missing. The result is the same for any number of tasks.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.utils.text import TextNormConfig

from ..data.opening import expand
from . import corpus_steps, options, semantic_steps, steps
from .classify_steps import Better, Topic
from .executors import Executor, Stage
from .finish import Finish
from .kinds import KINDS
from .reading import Read, Source


@dataclass
class Pipeline:
    """Sources, the options of each step (None: left out) and where things go."""

    output: Path
    sources: list[Source]
    title: str = "Curated corpus"
    extraction: options.Extraction = field(default_factory=options.Extraction)
    urls: options.Urls | None = None
    language: options.Languages | None = None
    kinds: options.Kinds | None = None
    heuristics: options.Heuristics | None = None
    pii: options.Personal | None = None
    minhash: options.MinHash | None = None
    lines: options.Lines | None = None
    quality: options.Quality | None = None
    semantic: options.Semantic | None = None
    topics: options.Topics | None = None
    decontamination: options.Decontamination | None = None
    form: options.Output = field(default_factory=options.Output)

    def run(self, executor: Executor) -> dict[str, Any] | None:
        """Runs all stages; the ledger's counts, or None where they were only submitted."""
        self.work = Path(self.output) / "work" / self.digest(executor)
        stages = self.stages(executor.tasks)
        if executor.kind == "local" and self.urls and not (self.work / "decisions" / "older.npy").is_file():
            steps.block_lists(self.urls.lists, self.urls.domains, self.urls.words)  # once, before tasks fork
        executor.run(stages, self.work / "logs")
        metrics = Path(self.output) / "metrics.json"
        return json.loads(metrics.read_text()) if executor.kind != "slurm" else None

    def digest(self, executor: Executor) -> str:
        """Names the folder of the stages: other options, files or tasks never go on from what is there."""
        parts = {name: value for name, value in asdict(self).items() if name != "output"}
        read = [text for source in self.sources for text in (*source.files, *(source.index or {}).values())]
        named = map(Path, map(expand, [*read, *_texts({**parts, "sources": None})]))
        files = sorted({f for path in named for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()})
        stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        text = json.dumps([parts, stamps, executor.tasks], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def stages(self, tasks: int) -> list[Stage]:
        """A stage ends where what comes next must know all documents; single tasks in between decide."""
        work, ledgers, decisions = self.work, self.work / "ledger", self.work / "decisions"
        flow = _Flow(work, tasks, [Read(self.sources, ledgers), steps.Extract(self.extraction, ledgers)])
        if self.urls:
            flow.then(steps.Address(self.urls, ledgers))
        if self.language:
            flow.then(steps.Language(self.language, ledgers))
        if self.kinds:
            flow.then(steps.Kind(self.kinds, ledgers))
        if self.heuristics:
            flow.then(steps.Looks(self.heuristics, ledgers))
        if self.pii:
            flow.then(steps.Pii(self.pii, ledgers))
        flow.then(corpus_steps.Collect(decisions, self.measured))
        flow.cut("pages")
        flow.once("decide", corpus_steps.Decide(decisions, self.urls))
        if self.urls:
            flow.then(corpus_steps.Newest(decisions, ledgers))
        if self.measured:
            flow.then(corpus_steps.Divergence(decisions, ledgers))
            flow.cut("measured")
            flow.then(corpus_steps.Outliers(self.heuristics, decisions, ledgers))
        if self.minhash:
            self._near_duplicates(flow, ledgers)
        if self.lines:
            flow.cut("documents")
            flow.then(corpus_steps.CountLines(work / "lines", ledgers, self._before("lines"), self.lines))
            flow.cut("lines")
            flow.once("frequent-lines", corpus_steps.FrequentLines(work / "lines", self.lines))
            flow.then(corpus_steps.RareLines(work / "lines", ledgers))
        if self.quality and self.quality.model:
            flow.then(Better(self.quality, ledgers))
        if self.semantic:
            self._near_meanings(flow, ledgers)
        if self.topics and self.topics.model:
            flow.then(Topic(self.topics, ledgers))
        if self.decontamination and self.decontamination.files:
            flow.then(corpus_steps.Clean(self.decontamination, ledgers))
        last = flow.cut("select")
        listed = [{"name": source.name, "files": len(source.files)} for source in self.sources]
        finish = Finish(
            last,
            Path(self.output),
            ledgers,
            self.step_names(),
            self.form,
            self.language,
            self.topics,
            self.title,
            listed,
            KINDS if self.kinds else KINDS[:1],
        )
        flow.once("finish", finish)
        return flow.stages

    def _near_duplicates(self, flow: "_Flow", ledgers: Path) -> None:
        found = self.work / "minhash"
        config = MinhashConfig(
            n_grams=self.minhash.ngrams,
            num_buckets=self.minhash.buckets,
            hashes_per_bucket=self.minhash.hashes,
            norm_config=TextNormConfig(norm_numbers=False),
        )
        held = flow.cut("signatures", corpus_steps.Signatures(found / "signatures", config))
        signatures, pairs = str(found / "signatures"), str(found / "pairs")
        flow.once(
            "pairs", MinhashDedupBuckets(signatures, pairs, config=config, lines_to_buffer=4096), config.num_buckets
        )
        flow.once("clusters", corpus_steps.Clusters(found / "pairs", held, found, self.minhash))
        flow.then(corpus_steps.Unlike(found, ledgers))

    def _near_meanings(self, flow: "_Flow", ledgers: Path) -> None:
        held, found = flow.cut("scored"), self.work / "semantic"
        shared = (held, found, ledgers, self._before("semantic"), self.semantic)
        flow.once("semantic-fit", semantic_steps.Fit(*shared))
        flow.once("semantic-place", semantic_steps.Place(*shared), flow.tasks)
        flow.once("semantic-choose", semantic_steps.Choose(found, self.semantic))
        flow.then(semantic_steps.Distinct(found, ledgers))

    @property
    def measured(self) -> bool:
        return self.heuristics is not None and self.heuristics.divergence is not None

    def _before(self, name: str) -> str:
        names = self.step_names()
        return names[names.index(name) - 1]

    def step_names(self) -> list[str]:
        """Steps in the order in which documents pass them."""
        asked = [
            ("read", True), ("extract", True), ("urls", self.urls), ("language", self.language), ("kinds", self.kinds),
            ("heuristics", self.heuristics), ("pii", self.pii), ("versions", self.urls), ("divergence", self.measured),
            ("minhash", self.minhash), ("lines", self.lines), ("quality", self.quality and self.quality.model),
            ("semantic", self.semantic), ("topics", self.topics and self.topics.model),
            ("decontamination", self.decontamination and self.decontamination.files),
        ]  # fmt: skip
        return [name for name, there in asked if there]


def _texts(value: Any) -> Iterator[str]:
    """All texts of options: which of them are files is seen on the disk."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


class _Flow:
    """Steps in a row, cut into stages; between two stages the documents are in shards on the disk."""

    def __init__(self, work: Path, tasks: int, steps: list[PipelineStep]):
        self.work, self.tasks, self.steps = work, tasks, steps
        self.stages: list[Stage] = []

    def then(self, step: PipelineStep) -> None:
        self.steps.append(step)

    def cut(self, name: str, *last: PipelineStep) -> Path:
        """Ends a stage, `last` after its shards are written; returns their folder."""
        folder = self.work / f"{len(self.stages):02d}-{name}"
        self.stages.append(Stage(name, [*self.steps, corpus_steps.Shards(folder), *last], self.tasks))
        self.steps = [corpus_steps.Reread(folder)]
        return folder

    def once(self, name: str, step: PipelineStep, tasks: int = 1) -> None:
        self.stages.append(Stage(name, [step], tasks))
