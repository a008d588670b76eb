"""Batches bounded by tokens, not rows."""

from collections.abc import Iterator, Sequence


def token_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices by falling length, in batches whose rows times longest length stay within `max_tokens`.

    A sequence longer than that comes alone.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        take = max(1, max_tokens // max(1, lengths[order[0]]))
        yield order[:take]
        order = order[take:]


def packed_batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices in their order, in batches of at most `max_tokens` in all; a longer sequence comes alone."""
    batch, tokens = [], 0
    for i, length in enumerate(lengths):
        if batch and tokens + length > max_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += length
    if batch:
        yield batch
