"""Words of a text as the rules count them, and hashes of words and lines that are equal on every machine."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import xxhash

TOKEN = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*|[^\w\s]|_")
# scripts written without spaces: every character counts as a word
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
SPACED = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)*")
WORD = re.compile(rf"{_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern})[^\W_])+(?:['’][^\W\d_]+)*")


@lru_cache(maxsize=8)  # several rules in a row ask for the words of one text
def words(text: str) -> tuple[str, ...]:
    """Words in lower case, without punctuation."""
    text = text.lower()
    return tuple((WORD if _UNSPACED.search(text) else SPACED).findall(text))


def token_count(text: str) -> int:
    """Words and signs; what a tokenizer of 128,000 entries makes of English is about as much."""
    return sum(1 for _ in TOKEN.finditer(text))


def hash64(text: str) -> int:
    return xxhash.xxh64_intdigest(text)


def hashes(texts: Iterable[str]) -> np.ndarray:
    return np.fromiter((xxhash.xxh64_intdigest(text) for text in texts), np.uint64)


def ngrams(items: Sequence[str], n: int) -> Iterator[str]:
    return (" ".join(items[i : i + n]) for i in range(len(items) - n + 1))
