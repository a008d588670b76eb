"""Batches bounded by tokens, not rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..models.sharing import common_length

SHORTEST_SHARED = 16  # tokens; less is not worth a family of segments


def token_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices by falling length, in batches whose rows times longest length stay within `max_tokens`.

    A sequence longer than that comes alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        take = max(1, max_tokens // max(1, lengths[order[0]]))
        yield order[:take]
        order = order[take:]


@dataclass
class Run:
    """Sequences `first` to `first + count - 1`, of which the first `shared` tokens are the same."""

    first: int
    count: int
    shared: int
    tokens: int


def packed_batches(sequences: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[Run]]:
    """Sequences in their order, as runs that share a beginning, in batches of at most `max_tokens` in all.

    A longer sequence comes alone.
    """
    batch, tokens = [], 0
    for run in _runs(sequences, max_tokens):
        if batch and tokens + run.tokens > max_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(run)
        tokens += run.tokens
    if batch:
        yield batch


def _runs(sequences: Sequence[Sequence[int]], max_tokens: int) -> Iterator[Run]:
    """A sequence joins the run before it unless that would share less than without it."""
    run = None
    for i, ids in enumerate(sequences):
        if run is not None:
            own = run.tokens + (run.count - 1) * run.shared  # of all its sequences, nothing shared
            shared = min(run.shared or len(ids), common_length([sequences[run.first], ids]))
            tokens = own + len(ids) - run.count * shared
            if shared >= SHORTEST_SHARED and tokens <= min(run.tokens + len(ids), max_tokens):
                run = Run(run.first, run.count + 1, shared, tokens)
                continue
            yield run
        run = Run(i, 1, 0, len(ids))
    if run is not None:
        yield run
