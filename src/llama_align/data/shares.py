"""Documents of several sources in shares of tokens, of an exact length, and classes cut to their shares of a whole."""

import random
from collections.abc import Mapping, Sequence


def tokens_in_shares(
    sources: Mapping[str, Sequence[Sequence[int]]], shares: Mapping[str, float], tokens: int, seed: str
) -> list[tuple[str, int, int]]:
    """Which documents make a mix of so many tokens: (source, number of the document, tokens of it), shuffled.

    Of a source each document is drawn once before any is drawn again; the last one is cut. A share of 0 draws nothing.

    Args:
        sources: token ids of the documents by source.
    """
    drawn: list[tuple[str, int, int]] = []
    for name, share in shares.items():
        left, rng = round(share * tokens), random.Random(f"{seed}/{name}")
        while left > 0:
            for number in rng.sample(range(len(sources[name])), len(sources[name])):
                taken = min(left, len(sources[name][number]))
                drawn += [(name, number, taken)] if taken else []
                left -= taken
                if left <= 0:
                    break
    random.Random(f"{seed}/mixture").shuffle(drawn)
    return drawn


def shuffled_words(text: str, seed: int) -> str:
    """A text with its words in any order: the same words, and nothing to learn from their order."""
    words = text.split()
    random.Random(f"{seed}/{len(words)}/{text[:64]}").shuffle(words)
    return " ".join(words)


def rates(tokens: Mapping[str, int], targets: Mapping[str, float]) -> dict[str, float]:
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
