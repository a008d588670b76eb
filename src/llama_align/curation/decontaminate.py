"""Documents that share n-grams with evaluation files. Knows texts and files of JSON lines; nothing of what they test.

GPT-3's 13-grams (Brown et al. 2020, appendix C), as Llama 2 and 3 report overlaps with evaluation data.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data.opening import expand, open_rows
from .words import hashes, ngrams, words

SHORTEST = 8  # words of a text that counts as a whole where it has fewer than n


def grams_of(found: Sequence[str], n: int) -> np.ndarray:
    """Hashes of a text's n-grams of words; of a shorter one, from 8 words on, of all its words."""
    return hashes([" ".join(found)] if SHORTEST <= len(found) < n else ngrams(found, n))


def texts_of(value: object) -> Iterator[str]:
    """Every string in a row, whatever its fields are called."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_of(item)


class Contamination:
    """The n-grams of named evaluation files; texts of fewer words than n count with all of their words from 8 on."""

    def __init__(self, files: list[str], n: int = 13):
        self.n, self.names = n, [Path(expand(file)).name for file in files]
        found: dict[int, int] = {}
        self.shorter: set[int] = set()
        for number, file in enumerate(files):
            for _, row in open_rows(file):
                for text in texts_of(row):
                    for gram in self._hashes(words(text)):
                        found.setdefault(int(gram), number)
        self.grams = np.array(sorted(found), np.uint64)
        self.origin = np.array([found[int(gram)] for gram in self.grams], np.int32)

    def _hashes(self, found: Sequence[str]) -> np.ndarray:
        if SHORTEST <= len(found) < self.n:
            self.shorter.add(len(found))
        return grams_of(found, self.n)

    def find(self, text: str) -> tuple[str, str] | None:
        """The evaluation file and the words that a text shares with it; None where it shares none."""
        if not len(self.grams):
            return None
        found = words(text)
        for n in (self.n, *sorted(self.shorter)):
            grams = hashes(ngrams(found, n))
            if not len(grams):
                continue
            at = np.minimum(np.searchsorted(self.grams, grams), len(self.grams) - 1)
            hit = np.flatnonzero(self.grams[at] == grams)
            if len(hit):
                return self.names[self.origin[at[hit[0]]]], " ".join(found[hit[0] : hit[0] + n])
        return None


class Overlap:
    """Which items of a benchmark share an n-gram with texts that a model was trained on; `found` [items] says so."""

    def __init__(self, items: Sequence[object], n: int = 13):
        self.n = n
        grams = [(grams_of(words(text), n), number) for number, item in enumerate(items) for text in texts_of(item)]
        lengths = {len(words(text)) for item in items for text in texts_of(item)}
        self.sizes = [n, *sorted(length for length in lengths if SHORTEST <= length < n)]
        self.grams = np.concatenate([np.zeros(0, np.uint64), *(found for found, _ in grams)])
        self.items = np.concatenate([np.zeros(0, np.int64), *(np.full(len(found), i) for found, i in grams)])
        order = np.argsort(self.grams, kind="stable")
        self.grams, self.items = self.grams[order], self.items[order]
        self.found = np.zeros(len(items), bool)

    def read(self, texts: Iterable[str]) -> None:
        """Marks the items that share an n-gram with any of the texts."""
        for text in texts:
            found = words(text)
            for size in self.sizes:
                grams = hashes(ngrams(found, size))
                first, last = (np.searchsorted(self.grams, grams, side) for side in ("left", "right"))
                for begin, end in zip(first[first < last], last[first < last], strict=True):
                    self.found[self.items[begin:end]] = True
