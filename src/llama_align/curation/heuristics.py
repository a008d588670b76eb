"""Rules that drop a text for how it looks: lengths, symbols, repetition, dirty words, tokens no other text has.

Each rule gives None, or why the text goes. Llama 3 (section 3.1.1): "We develop heuristics to remove additional
low-quality documents, outliers, and documents with excessive repetitions."
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .words import hashes, ngrams, words

BULLETS = ("•", "‣", "⁃", "●", "◦", "- ", "* ")
STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}


@dataclass(frozen=True)
class Lengths:
    """Bounds of Gopher's quality filter (Rae et al. 2021, table A1), each None to leave it out."""

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word: float | None = 3
    max_mean_word: float | None = 10
    max_symbols: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alphabetic: float | None = 0.8
    min_stop_words: int | None = 2


def quality(text: str, bounds: Lengths, english: bool = True) -> str | None:
    """Gopher's bounds on length and symbols; stop words and letters are asked of English alone."""
    tokens = text.split()
    found = words(text)
    if bounds.min_words is not None and len(found) < bounds.min_words:
        return "short"
    if bounds.max_words is not None and len(found) > bounds.max_words:
        return "long"
    mean = sum(map(len, found)) / max(1, len(found))
    if english and bounds.min_mean_word is not None and mean < bounds.min_mean_word:
        return "short words"
    if bounds.max_mean_word is not None and mean > bounds.max_mean_word:
        return "long words"
    symbols = text.count("#") + text.count("...") + text.count("…")
    if bounds.max_symbols is not None and symbols > bounds.max_symbols * max(1, len(tokens)):
        return "symbols"
    lines = [line for line in text.splitlines() if line.strip()]
    if bounds.max_bullet_lines is not None:
        bullets = sum(line.lstrip().startswith(BULLETS) for line in lines)
        if bullets > bounds.max_bullet_lines * len(lines):
            return "bullets"
    if bounds.max_ellipsis_lines is not None:
        open_ended = sum(line.rstrip().endswith(("...", "…")) for line in lines)
        if open_ended > bounds.max_ellipsis_lines * len(lines):
            return "ellipses"
    if english and bounds.min_alphabetic is not None:
        alphabetic = sum(any(map(str.isalpha, token)) for token in tokens)
        if alphabetic < bounds.min_alphabetic * len(tokens):
            return "not alphabetic"
    if english and bounds.min_stop_words is not None and len(STOP_WORDS.intersection(found)) < bounds.min_stop_words:
        return "no stop words"
    return None


# Gopher's table A1
TOP_NGRAMS = ((2, 0.20), (3, 0.18), (4, 0.16))
DUPLICATE_NGRAMS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


def repetition(text: str) -> str | None:
    """Gopher's repetition filter on datatrove's counts: lines, paragraphs, the commonest and all repeated n-grams."""
    from datatrove.pipeline.filters.gopher_repetition_filter import (
        find_all_duplicate,
        find_duplicates,
    )

    for name, pattern in (("paragraphs", r"\n{2,}"), ("lines", r"\n+")):
        parts = re.split(pattern, text.strip())
        count, characters = find_duplicates(parts)
        if count > 0.3 * len(parts) or characters > 0.2 * len(text):
            return f"duplicated {name}"
    found = words(text)
    size = max(1, sum(map(len, found)))
    for n, limit in TOP_NGRAMS:
        ((top, count),) = Counter(ngrams(found, n)).most_common(1) or [("", 0)]
        if count > 1 and len(top) * count > limit * size:
            return f"one {n}-gram"
    for n, limit in DUPLICATE_NGRAMS:
        if find_all_duplicate(found, n) > limit * size:
            return f"repeated {n}-grams"
    return None


def repeated_lines(text: str, n: int = 5, covered: float = 0.6) -> list[bool]:
    """For each line with words, whether n-grams of earlier lines cover so much of it.

    Llama 3: "We use duplicated n-gram coverage ratio (Rae et al., 2021) to remove lines that consist of repeated
    content such as logging or error messages. Those could be very long and unique, hence cannot be filtered by
    line-dedup."
    """
    seen: set[str] = set()
    flags = []
    for line in text.splitlines():
        found = words.__wrapped__(line)  # a line is asked for once
        if not found:
            continue
        grams = list(ngrams(found, n))
        hit, reached = 0, 0
        for i, gram in enumerate(grams):
            if gram in seen:
                hit += i + n - max(i, reached)
                reached = i + n
        flags.append(hit >= covered * len(found) and bool(grams))
        seen.update(grams)
    return flags


def without_repeated_lines(text: str, n: int = 5, covered: float = 0.6) -> tuple[str, list[str], float]:
    """The text less the lines that `repeated_lines` names, those lines, and their share of all lines with words."""
    flags = repeated_lines(text, n, covered)
    if not any(flags):
        return text, [], 0.0
    of_line, kept, gone = iter(flags), [], []
    for line in text.splitlines():
        (gone if words.__wrapped__(line) and next(of_line) else kept).append(line)
    return "\n".join(kept).strip("\n"), gone, len(gone) / len(flags)


class DirtyWords:
    """Counts words and phrases of a list; each line of a file is one.

    Llama 3: "We use 'dirty word' counting (Raffel et al., 2020) to filter out adult websites that are not covered by
    domain block lists."
    """

    def __init__(self, phrases: list[str]):
        found = sorted({" ".join(words(phrase)) for phrase in phrases if words(phrase)}, key=len, reverse=True)
        self.phrases = frozenset(found)
        self.longest = max((len(phrase.split()) for phrase in found), default=0)

    @classmethod
    def read(cls, paths: list[str | Path]) -> "DirtyWords":
        lines = [line for path in paths for line in Path(path).read_text("utf-8").splitlines()]
        return cls([line for line in lines if line.strip() and not line.startswith("#")])

    def ratio(self, text: str) -> float:
        """Listed phrases for each word of the text."""
        found = words(text)
        hits = sum(gram in self.phrases for n in range(1, self.longest + 1) for gram in ngrams(found, n))
        return hits / max(1, len(found))


BUCKETS = 1 << 16


def token_places(text: str) -> np.ndarray:
    """The bucket, of 65,536, of each word."""
    return (hashes(words(text)) % BUCKETS).astype(np.int64)


def token_histogram(text: str) -> np.ndarray:
    """How often each bucket of words occurs."""
    return np.bincount(token_places(text), minlength=BUCKETS)


def divergence(text: str, corpus: np.ndarray) -> float:
    """Kullback-Leibler divergence of a text's words from the corpus', in nats: sum p log(p / q), q smoothed by one.

    Llama 3: "We use a token-distribution Kullback-Leibler divergence to filter out documents containing excessive
    numbers of outlier tokens compared to the training corpus distribution."
    """
    places, counts = np.unique(hashes(words(text)) % BUCKETS, return_counts=True)
    if not len(places):
        return 0.0
    p = counts / counts.sum()
    q = (corpus[places.astype(np.int64)] + 1) / (corpus.sum() + BUCKETS)
    return float((p * np.log(p / q)).sum())


def length_class(count: int) -> int:
    """Texts of about one length: a short text is far from any corpus, which is no fault of its tokens."""
    return max(count, 1).bit_length()
