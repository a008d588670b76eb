"""The rows of step n: a function of the sources, the stages, the seed and n. Nothing else is remembered.

Knows mapped tokens and stages; knows nothing of models or processes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..runtime.files import write_json
from .order import Blocks, shared_out, whole_shares
from .sources import Source
from .stages import Stage, StageError, Timeline

FILE = "plan.json"  # in a checkpoint


class Row(NamedTuple):
    """Where the tokens of a row are: source and epoch by number, and the first token in the source."""

    source: int
    epoch: int
    start: int


@dataclass(frozen=True)
class Reading:
    """A stage's part of every source: shares as whole numbers, and the rows numbered `firsts` to `ends`."""

    shares: tuple[int, ...]
    firsts: tuple[int, ...]
    ends: tuple[int, ...]


class Plan:
    """What a run reads, step by step.

    Raises:
        StageError: two sources of one name, a source too small for its rows or of which more is asked for than its
            bound on epochs allows, contexts that do not divide each other.
    """

    def __init__(self, sources: Sequence[Source], stages: Sequence[Stage], seed: int):
        self.sources, self.time, self.seed = list(sources), Timeline(stages), seed
        weights = {source.name: source.weight for source in sources}
        if len(weights) < len(sources):
            names = [source.name for source in sources]
            twice = next(name for name in names if names.count(name) > 1)
            raise StageError(f"datasets: found the name {twice!r} twice, expected a name of its own for every source")
        self._shares = [stage.shares(weights, stage.where) for stage in self.stages]
        self._blocks = [self._block(number, seed) for number in range(len(sources))]
        self._read([stage.steps for stage in self.stages])  # with every portion, so that none is refused on the way
        self._check_epochs()
        self._read(self.time.sizes)

    @property
    def stages(self) -> list[Stage]:
        return self.time.stages

    def take(self, number: int) -> None:
        """Has a further portion of a stage, by its place among `stages`, be trained on; no earlier step changes."""
        self.time.take(number)
        self._read(self.time.sizes)

    def _block(self, number: int, seed: int) -> Blocks | None:
        source = self.sources[number]
        contexts = [stage.context for stage, own in zip(self.stages, self._shares, strict=True) if own[number]]
        if not contexts:
            return None
        block = max(contexts)
        if odd := [context for context in contexts if block % context]:
            raise StageError(f"stages: found contexts of {odd[0]} and {block}, expected the longer a multiple of it")
        if source.tokens.tokens < block:
            found = f"{source.tokens.tokens} tokens in the source {source.name}"
            raise StageError(f"datasets: found {found}, expected at least {block}, the longest row it is read in")
        return Blocks(source.name, source.tokens.tokens, block, seed)

    def _read(self, sizes: Sequence[int]) -> None:
        """Lays out what every stage, of so many steps, reads of the sources."""
        readings, drawn = [], [0] * len(self.sources)
        for stage, steps, own in zip(self.stages, sizes, self._shares, strict=True):
            whole = whole_shares(own)
            counts = shared_out(steps * stage.rows, whole)
            # behind a stage of shorter rows the next one begins with a row that is whole
            firsts = tuple(-(-tokens // stage.context) for tokens in drawn)
            ends = tuple(first + count for first, count in zip(firsts, counts, strict=True))
            readings.append(Reading(whole, firsts, ends))
            drawn = [end * stage.context if n else t for end, n, t in zip(ends, counts, drawn, strict=True)]
        self._readings, self._drawn = readings, drawn

    def _check_epochs(self) -> None:
        for source, blocks, drawn in zip(self.sources, self._blocks, self._drawn, strict=True):
            if blocks is None or drawn <= source.most_epochs * blocks.per_epoch * blocks.block:
                continue
            raise StageError(
                f"stages: found {drawn} tokens of the source {source.name}, {drawn / source.tokens.tokens:.2f} epochs, "
                f"expected at most {source.most_epochs:g} of its {source.tokens.tokens} tokens (in rows of "
                f"{blocks.block}); lower its share, or raise its epochs or set repeat: true"
            )

    @property
    def steps(self) -> int:
        return self.time.steps

    @property
    def may_grow(self) -> bool:
        """Whether any gate may ask for further portions."""
        return any(stage.portion for stage in self.stages)

    def stage(self, step: int) -> Stage:
        """The stage of a step."""
        return self.stages[self.time.at(step)]

    def rows(self, step: int, process: int = 0, processes: int = 1) -> list[Row]:
        """The rows of a step that a process trains on, every one of so many."""
        number, found = self.time.at(step), []
        stage, reading = self.stages[number], self._readings[number]
        first = (step - self.time.firsts[number]) * stage.rows
        for row in range(first + process, first + stage.rows, processes):
            before, after = shared_out(row, reading.shares), shared_out(row + 1, reading.shares)
            source = next(i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old < new)
            begin, end = reading.firsts[source], reading.ends[source]
            epoch, start = self._blocks[source].place(begin + before[source], stage.context, begin, end)
            found.append(Row(source, epoch, start))
        return found

    def documents(self, step: int) -> list[str]:
        """The documents in a step's rows, as `source: first-last`, counted from 0 in the source's order."""
        length, found = self.stage(step).context, []
        for row in self.rows(step):
            first, last = self.sources[row.source].tokens.documents_in(row.start, length)
            found.append(f"{self.sources[row.source].name}: {first}" + (f"-{last}" if last > first else ""))
        return found

    def read_by(self, step: int) -> list[int]:
        """Tokens of every source in the steps before this one."""
        found = [0] * len(self.sources)
        for number, (stage, reading) in enumerate(zip(self.stages, self._readings, strict=True)):
            steps = min(max(step - self.time.firsts[number], 0), self.time.sizes[number])
            counts = shared_out(steps * stage.rows, reading.shares)
            found = [tokens + count * stage.context for tokens, count in zip(found, counts, strict=True)]
        return found

    def trained_on(self, step: int) -> dict[str, Any]:
        """All that decides which rows the steps before this one were."""
        stages, used = {}, set()
        for number, (stage, reading) in enumerate(zip(self.stages, self._readings, strict=True)):
            if self.time.sizes[number] and self.time.firsts[number] < step:
                rows = {
                    source.name: {"share": share, "first": first, "end": end}
                    for source, share, first, end in zip(
                        self.sources, reading.shares, reading.firsts, reading.ends, strict=True
                    )
                    if share
                }
                used |= set(rows)
                label = stage.where + (f", portion {stage.portion}" if stage.portion else "")
                stages[label] = {"context": stage.context, "batch": stage.batch, "rows": rows}
        sources = {
            source.name: {"tokens": source.tokens.tokens, "documents": source.tokens.documents, "block": blocks.block}
            for source, blocks in zip(self.sources, self._blocks, strict=True)
            if source.name in used
        }
        return {"seed": self.seed, "sources": sources, "stages": stages}

    def save(self, folder: Path, step: int) -> None:
        write_json(folder / FILE, {"step": step, "trained_on": self.trained_on(step)})

    def check(self, folder: Path) -> None:
        """Raises StageError where a checkpoint was trained on other rows than those of this plan up to there."""
        if not (folder / FILE).is_file():  # of an older version
            return
        stored = json.loads((folder / FILE).read_text())
        if apart := _apart(stored["trained_on"], self.trained_on(stored["step"])):
            raise StageError(
                f"{folder / FILE}, {apart}, which this run has; what was trained on stays as it was, or documents are "
                "read again uncounted: let the same stages stand and append others (a source's longest row and its "
                "files stay, too), or begin another run with model_name_or_path"
            )

    def epochs(self, step: int | None = None) -> dict[str, dict[str, float]]:
        """Of every source, up to a step (default: the end): its share of all tokens, tokens and epochs.

        As LLaMA's table 1 has them; an epoch is as many tokens as the source has.
        """
        tokens = self.read_by(self.steps if step is None else step)
        total = max(sum(tokens), 1)
        return {
            source.name: {"share": read / total, "tokens": read, "epochs": read / source.tokens.tokens}
            for source, read in zip(self.sources, tokens, strict=True)
        }

    def __str__(self) -> str:
        lines = [f"{'stage':<16}{'steps':>9}{'tokens':>18}{'context':>9}{'batch':>12}{'window':>8}"]
        for stage, steps in zip(self.stages, self.time.sizes, strict=True):
            if not steps:
                continue
            sizes = f"{steps:>9,}{steps * stage.batch:>18,}{stage.context:>9,}{stage.batch:>12,}"
            lines.append(f"{stage.name:<16}{sizes}{stage.window or '':>8}")
        lines.append(f"{'source':<16}{'share':>9}{'tokens':>18}{'epochs':>9}")
        for name, row in self.epochs().items():
            lines.append(f"{name:<16}{row['share']:>9.2%}{row['tokens']:>18,}{row['epochs']:>9.2f}")
        return "\n".join(lines)


def _apart(old: Any, new: Any, where: str = "") -> str | None:
    """The first place at which two trees of mappings differ, with what was found and expected."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        told = (_apart(old.get(key), new.get(key), f"{where}.{key}" if where else key) for key in [*old, *new])
        return next(filter(None, told), None)
    return None if old == new else f"{where}: found {_said(old)}, expected {_said(new)}"


def _said(value: Any) -> str:
    return "none" if value is None else ", ".join(value) if isinstance(value, Mapping) else str(value)
