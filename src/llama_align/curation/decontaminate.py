"""Documents that share n-grams with evaluation files. Knows texts and files of JSON lines; nothing of what they test.

GPT-3's 13-grams (Brown et al. 2020, appendix C), as Llama 2 and 3 report overlaps with evaluation data.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..data.opening import expand, open_rows
from .words import hashes, ngrams, words


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

    def _hashes(self, found: list[str]) -> np.ndarray:
        if 8 <= len(found) < self.n:
            self.shorter.add(len(found))
            return hashes([" ".join(found)])
        return hashes(ngrams(found, self.n))

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
