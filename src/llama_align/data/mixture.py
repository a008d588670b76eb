"""Several sources as one list of records, in the shares asked for. Knows nothing of how a source is read."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from .columns import listed
from .reading import Tally, read_source
from .records import KINDS, Record, SourceError, show
from .sources import DataSource


@dataclass
class LoadReport:
    """What became of the rows of every source; `str(report)` is a plain table.

    With weights `sources` has of each source, as LLaMA's table 1, its share of the mixture, how much of it was read, in
    what `unit` says, and how many times over.
    """

    tallies: list[Tally]
    unit: str = "records"
    sources: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, dict]:
        """What a run's metrics.json says of it: `sources`, where these have shares."""
        return {"sources": self.sources} if self.sources else {}

    @property
    def skipped(self) -> int:
        """How many rows did not fit, over all sources."""
        return sum(tally.skipped.total() for tally in self.tallies)

    def __str__(self) -> str:
        heads = ("source", "rows", "left out", "skipped", "records", "used")
        rows = [(t.name, t.rows, t.left_out.total(), t.skipped.total(), t.fitting, t.used) for t in self.tallies]
        if len(rows) > 1:
            rows.append(("together", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
        width = max(len(str(row[0])) for row in [heads, *rows])
        lines = [f"{row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in [heads, *rows]]
        if self.sources:
            width = max(width, *map(len, self.sources))
            lines.append(f"{'source':<{width}}" + "".join(f"{cell:>10}" for cell in ("share", self.unit, "epochs")))
        for name, row in self.sources.items():
            lines.append(f"{name:<{width}}{row['share']:>10.2%}{row[self.unit]:>10}{row['epochs']:>10.2f}")
        for tally in self.tallies:
            lines += [f"{tally.name}: {reason}" for reason in tally.reasons()]
            lines += [f"{tally.name}: columns not read: {listed(tally.unread)}"] if tally.unread else []
        return "\n".join(lines)


def one(_: Record) -> int:
    """Counts records."""
    return 1


def load_records(
    sources: Sequence[DataSource | dict | str],
    kind: str,
    seed: int = 0,
    size: Callable[[Record], int] = one,
    unit: str = "records",
) -> tuple[list[Record], LoadReport]:
    """All records of one kind from the sources, and a report of what was read.

    Without weights: everything, source after source, in order. With weights (then every source has one): a shuffled
    mixture, as large as it can be with each source in its share of the weights, to half a record, and none read more
    often than its `epochs`, without which and without `repeat` that is once. A source that is read again starts over,
    freshly shuffled; where all have `repeat`, the mixture is as large as it takes to read each of them once. The same
    sources and seed give the same list.

    Args:
        size: of a record, which shares are of: its tokens, say, and 0 for one that will be left out. unit: what that
            counts.

    Raises ValueError for options that do not fit or a source that holds nothing, RecordError (a ValueError) for rows.
    """
    if kind not in KINDS:
        raise SourceError(f"kind of records: found {show(kind)}, expected one of {', '.join(KINDS)}")
    parsed = [DataSource.parse(source) for source in sources]
    weighted = [source for source in parsed if source.weight is not None]
    if weighted and len(weighted) < len(parsed):
        bare = next(source for source in parsed if source.weight is None)
        raise SourceError(
            f"data source {bare.path}, key 'weight': found nothing, expected one for every source or none"
        )
    read = [read_source(source, kind) for source in parsed]
    for source, (records, tally) in zip(parsed, read, strict=True):
        if not records:
            raise SourceError(f"data source {source.path}: " + nothing_in(kind, tally))
    report, mixed = LoadReport([tally for _, tally in read], unit), []
    if not weighted:
        for records, tally in read:
            tally.used = len(records)
            mixed += records
        return mixed, report
    sizes = [[size(record) for record in records] for records, _ in read]
    for source, own in zip(parsed, sizes, strict=True):
        if not any(own):
            raise SourceError(f"data source {source.path}: found no {kind} that is not left out, expected one to weigh")
    targets, drawn = _targets(parsed, [sum(own) for own in sizes]), {}
    for number, ((records, tally), own, target) in enumerate(zip(read, sizes, targets, strict=True)):
        places = _draw(own, target, f"{seed}/{number}/{tally.name}")
        tally.used = len(places)
        mixed += [records[place] for place in places]
        name = tally.name if tally.name not in drawn else f"{tally.name} ({number + 1})"
        drawn[name] = sum(own[place] for place in places), sum(own)
    total = sum(count for count, _ in drawn.values())
    for name, (count, whole) in drawn.items():
        report.sources[name] = {"share": count / total, unit: count, "epochs": count / whole}
    random.Random(f"{seed}/mixture").shuffle(mixed)
    return mixed, report


def nothing_in(kind: str, tally: Tally) -> str:
    """Why a source gave no record."""
    if not tally.rows:
        return f"it holds no rows, expected at least one {kind}"
    return "; ".join([f"no {kind} in its {tally.rows} rows", *tally.reasons()])


def _targets(sources: list[DataSource], sizes: list[int]) -> list[Fraction]:
    """How much each source gives, so that all stand in their shares."""
    weights = [Fraction(source.weight) for source in sources]
    shares = [weight / sum(weights) for weight in weights]
    # exact fractions: a source that sets the size must give all of its records, not one fewer by rounding
    bounded = [row for row in zip(sizes, shares, sources, strict=True) if not row[2].repeat]
    limits = [size * Fraction(source.most_epochs) / share for size, share, source in bounded]
    total = min(limits) if limits else max(size / share for size, share in zip(sizes, shares, strict=True))
    return [total * share for share in shares]


def _draw(sizes: list[int], target: Fraction, seed: str) -> list[int]:
    """Places of records that are nearest to so much together, each drawn once before any is drawn again."""
    rng = random.Random(seed)
    drawn, total = [], 0
    while total < target:
        for place in rng.sample(range(len(sizes)), len(sizes)):
            if sizes[place] and total + Fraction(sizes[place], 2) > target:
                return drawn
            drawn.append(place)
            total += sizes[place]
    return drawn
