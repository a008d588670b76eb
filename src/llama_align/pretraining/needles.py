"""Needles in a haystack: keys that are said somewhere in real text and asked for at its end.

As probes of how far back a model finds something, and as documents to learn that from. Knows token files and the ids
around a document; knows nothing of models.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data import SourceError, tokens_of
from .tokens import Tokens

SYLLABLES = ["ba", "de", "fi", "go", "hu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu"]
NEAR = 16  # a needle goes to the end of a sentence that is no further away than this part of the text


@dataclass(frozen=True)
class Probe:
    """One haystack, question and answer at its end.

    ids: all of it. answer: how many of the last ids are the answer. depth: where in the text the needle is, from 0 to
    1; None where it was taken out.
    """

    ids: list[int]
    answer: int
    length: int
    depth: float | None


class Haystack:
    """Text of sources without their boundaries, into which keys are put.

    Raises:
        SourceError: sources of control tokens alone.
    """

    def __init__(self, sources: Sequence[Tokens], tokenizer: PreTrainedTokenizerBase, digits: int):
        self._sources, self._tokenizer, self._digits = list(sources), tokenizer, digits
        around = tokens_of(tokenizer)
        self._around = [] if around.bos is None else [around.bos]
        self._control = np.array(sorted({around.eos, around.pad, *self._around}))
        self._tokens = sum(source.tokens for source in sources)
        texts = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self._ends = np.array([bool(text) and text.rstrip("Ġ▁").endswith((".", "Ċ", "\n")) for text in texts])

    def probe(self, length: int, depth: float, key: str, taken_out: bool = False) -> Probe:
        """The probe that is a function of the key: `length` ids with the answer.

        Args:
            taken_out: the needle is not there, and text stands in its place: nothing is left to find.
        """
        draw = random.Random(key)
        question, answer, said = self._needle(self._name(draw), draw)
        room = length - len(self._around) - len(question) - len(answer)
        text = self._text(room - (0 if taken_out else len(said)), draw)
        if not taken_out:
            text = self._with(text, [(depth, said)])
        return Probe([*self._around, *text, *question, *answer], len(answer), length, None if taken_out else depth)

    def document(self, length: int, most: int, key: str) -> list[int]:
        """A document of `length` ids in which one to `most` keys are said anywhere and asked for at its end.

        One in six is said first or last, where probes look too and a place drawn evenly hardly ever is. No end of text
        follows: in rows of its length it would always stand where a probe has its last digit.
        """
        draw = random.Random(key)
        names: dict[str, None] = {}
        for _ in range(draw.randint(1, most)):
            names[self._name(draw)] = None
        needles = [self._needle(name, draw) for name in names]
        asked = [token for question, answer, _ in draw.sample(needles, len(needles)) for token in question + answer]
        said = [(min(max(draw.uniform(-0.1, 1.1), 0.0), 1.0), sentence) for *_, sentence in needles]
        room = length - len(self._around) - len(asked) - sum(len(sentence) for _, sentence in said)
        return [*self._around, *self._with(self._text(room, draw), said), *asked]

    def copy(self, length: int, key: str) -> list[int]:
        """A document of `length` ids: a passage, a quarter to half of it, other text, and the passage again."""
        draw = random.Random(key)
        room = length - len(self._around)
        passage = self._text(draw.randint(room // 4, room // 2), draw)
        between = room - 2 * len(passage)
        return [*self._around, *passage, *(self._text(between, draw) if between else ()), *passage]

    def _name(self, draw: random.Random) -> str:
        return "".join(draw.choice(SYLLABLES) for _ in range(3)).capitalize()

    def _needle(self, name: str, draw: random.Random) -> tuple[list[int], list[int], list[int]]:
        """The question, its answer, and the sentence that says it, part by part so that their ids are the same."""
        value = draw.randrange(10 ** (self._digits - 1), 10**self._digits)
        question, answer, stop = (self._ids(text) for text in (f" The key of {name} is", f" {value}", "."))
        return question, answer, question + answer + stop

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _text(self, length: int, draw: random.Random) -> list[int]:
        if length < 1:
            raise SourceError(f"needles: found room for {length} tokens of text around them, expected longer rows")
        found: list[int] = []
        at = draw.randrange(self._tokens)
        empty = 0
        while len(found) < length:
            ids = self._read(at, length + NEAR)
            kept = ids[~np.isin(ids, self._control)].tolist()
            empty = 0 if kept else empty + len(ids)
            if empty >= self._tokens:
                raise SourceError("needles: found no text in the sources, only control tokens")
            found += kept
            at = (at + len(ids)) % self._tokens
        return found[:length]

    def _read(self, at: int, length: int) -> np.ndarray:
        for source in self._sources:
            if at < source.tokens:
                return source.read(at, length)[0]
            at -= source.tokens
        raise IndexError(at)

    def _with(self, text: list[int], said: list[tuple[float, list[int]]]) -> list[int]:
        """The text with sentences at their depths, behind the end of one of its own where one is near."""
        made, rest = [], len(text)
        ends = np.flatnonzero(self._ends[text]) + 1
        for depth, sentence in sorted(said, key=lambda one: one[0], reverse=True):
            place = round(depth * len(text))
            if len(ends):
                nearest = int(ends[np.abs(ends - place).argmin()])
                place = nearest if abs(nearest - place) * NEAR <= len(text) else place
            place = min(place, rest)
            made = [*sentence, *text[place:rest], *made]
            rest = place
        return [*text[:rest], *made]


def grid(lengths: int, depths: int, context: int) -> Iterator[tuple[int, float]]:
    """Lengths in equal steps up to a context, and depths from the beginning to the end."""
    for row in range(1, lengths + 1):
        for column in range(depths):
            yield context * row // lengths, column / max(depths - 1, 1)
