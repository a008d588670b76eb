"""Fill in the middle: which documents are split, where, and in which order their parts stand (Code Llama, section 2.3).

Knows texts alone; `chat/infilling.py` writes the parts as ids.
"""

import random
from dataclasses import dataclass

from ..chat import Split
from .records import SourceError


@dataclass(frozen=True)
class Infilling:
    """How documents are split. What becomes of one follows from its text and the seed, in whatever order it is read.

    Args:
        rate: share of documents that are split (Code Llama: 0.9). suffix_first: share of these whose suffix comes first
            (half).
        longest: tokens that a document may have, all its control tokens among them; a longer one stays as it is. With
            the context of training none is split that no row can hold.

    Raises:
        SourceError: a share outside 0 to 1.
    """

    rate: float = 0.9
    suffix_first: float = 0.5
    seed: int = 0
    longest: int | None = None

    def __post_init__(self) -> None:
        for name in ("rate", "suffix_first"):
            if not 0 <= getattr(self, name) <= 1:
                raise SourceError(f"infilling, {name}: found {getattr(self, name)!r}, expected a share from 0 to 1")

    def split(self, text: str) -> Split | None:
        """The document in three parts, cut at two characters drawn evenly over it; None: it stays as it is."""
        draw = random.Random(f"{self.seed}/infilling/{text}")
        if draw.random() >= self.rate:
            return None
        suffix_first = draw.random() < self.suffix_first
        start, end = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
        return Split(text[:start], text[start:end], text[end:], suffix_first)
