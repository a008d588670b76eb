"""Several sources as one list of records, in the shares asked for. Knows nothing of how a source is read."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from .columns import listed
from .reading import Tally, read_source
from .records import KINDS, Record, SourceError, show
from .sources import DataSource


@dataclass
class LoadReport:
    """What became of the rows of every source; `str(report)` is a plain table."""

    tallies: list[Tally]

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
        for tally in self.tallies:
            lines += [f"{tally.name}: {reason}" for reason in tally.reasons()]
            lines += [f"{tally.name}: columns not read: {listed(tally.unread)}"] if tally.unread else []
        return "\n".join(lines)


def load_records(
    sources: Sequence[DataSource | dict | str], kind: str, seed: int = 0
) -> tuple[list[Record], LoadReport]:
    """All records of one kind from the sources, and a report of what was read.

    Without weights: everything, source after source, in order. With weights (then every source has one): a shuffled
    mixture, as large as it can be with each source in its share of the weights and none read more often than its
    `epochs`, without which and without `repeat` that is once. A source that is read again starts over, freshly
    shuffled; where all have `repeat`, the mixture is as large as it takes to read each of them once. The same sources
    and seed give the same list.

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
    counts = _counts(parsed, [len(records) for records, _ in read]) if weighted else [len(r) for r, _ in read]
    mixed: list[Record] = []
    for number, ((records, tally), count) in enumerate(zip(read, counts, strict=True)):
        tally.used = count
        mixed += _draw(records, count, f"{seed}/{number}/{tally.name}") if weighted else records
    if weighted:
        random.Random(f"{seed}/mixture").shuffle(mixed)
    return mixed, LoadReport([tally for _, tally in read])


def nothing_in(kind: str, tally: Tally) -> str:
    """Why a source gave no record."""
    if not tally.rows:
        return f"it holds no rows, expected at least one {kind}"
    return "; ".join([f"no {kind} in its {tally.rows} rows", *tally.reasons()])


def _counts(sources: list[DataSource], sizes: list[int]) -> list[int]:
    """How many records each source gives, so that all stand in their shares."""
    weights = [Fraction(source.weight) for source in sources]
    shares = [weight / sum(weights) for weight in weights]
    # exact fractions: a source that sets the size must give all of its records, not one fewer by rounding
    bounded = [row for row in zip(sizes, shares, sources, strict=True) if not row[2].repeat]
    limits = [size * Fraction(source.most_epochs) / share for size, share, source in bounded]
    total = min(limits) if limits else max(size / share for size, share in zip(sizes, shares, strict=True))
    return [round(total * share) for share in shares]


def _draw(records: list[Record], count: int, seed: str) -> list[Record]:
    """`count` records, each used once before any is used again."""
    rng = random.Random(seed)
    drawn: list[Record] = []
    while len(drawn) < count:
        drawn += rng.sample(records, min(len(records), count - len(drawn)))
    return drawn
