"""Further pieces of a vocabulary, learned from text: byte pair encoding that goes on where a tokenizer's own stopped.

Llama 3 (section 3.2) put 28K tokens for other languages than English beside the 100K of tiktoken.
"""

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Regex, Tokenizer, pre_tokenizers

from .dialects import ContractError

# SentencePiece's own limits on what a piece holds, where no pre-tokenizer sets any: one word with the space before it,
# one digit, or one run of signs (split_by_whitespace, split_by_number, split_digits)
WORDS = pre_tokenizers.Split(Regex(r"▁*[\p{L}\p{M}]+|\p{N}|▁*[^▁\p{L}\p{M}\p{N}]+|▁+"), "isolated")
COVERAGE = 0.9995  # of the characters: SentencePiece's character_coverage


@dataclass(frozen=True)
class Piece:
    """A token to be: its text, the two pieces it is a merge of (none: a character), and the old ids it is made of."""

    text: str
    merge: tuple[str, str] | None
    ids: tuple[int, ...]


def learn_pieces(tokenizer: Tokenizer, texts: Iterable[str], count: int, taken: Collection[str] = ()) -> list[Piece]:
    """The next `count` pieces that byte pair encoding finds in texts, on top of the merges a tokenizer has.

    A tokenizer that spells unknown characters as bytes gets the characters first that make up 99.95% of those it
    lacks. Old merges come before new ones, so that text without a new piece is encoded as it was.

    Args:
        taken: texts that no piece may have, such as those of control tokens.

    Raises:
        ContractError: no byte pair encoding, or too little text for so many pieces.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    _check_model(tokenizer)
    words = _words(tokenizer, texts)
    characters = _characters(words, vocabulary)[:count] if tokenizer.model.byte_fallback else []
    pieces = [Piece(text, None, tuple(vocabulary[f"<0x{byte:02X}>"] for byte in text.encode())) for text in characters]
    known = {piece.text: number for number, piece in enumerate(pieces, len(vocabulary))}
    spelled = [(_spelled(tokenizer, word, known), times) for word, times in words.items()]
    names = {number: text for text, number in (vocabulary | known).items()}
    made = {number: piece.ids for number, piece in enumerate(pieces, len(vocabulary))}
    closed = {number for number, text in names.items() if _is_byte(text)} | {vocabulary.get(tokenizer.model.unk_token)}
    texts_taken = {*vocabulary, *known, *taken}
    merges = _merges(spelled, names, closed, texts_taken, count - len(pieces))
    for number, left, right in merges:
        made[number] = made.get(left, (left,)) + made.get(right, (right,))
        pieces.append(Piece(names[number], (names[left], names[right]), made[number]))
    if len(pieces) < count:
        raise ContractError(
            f"pieces: found {len(pieces)} that occur twice in the text, expected {count}; give more or ask for fewer"
        )
    return pieces


def with_pieces(tokenizer: Tokenizer, pieces: list[Piece]) -> Tokenizer:
    """The tokenizer with pieces behind all ids it has, which have no gaps, and their merges behind its own."""
    if not pieces:
        return tokenizer
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    state = json.loads(tokenizer.to_str())
    model = state["model"]
    # added tokens are numbered behind the model's vocabulary when a file is read, unless they are in it
    model["vocab"] = vocabulary | {piece.text: number for number, piece in enumerate(pieces, len(vocabulary))}
    texts = model["merges"] and isinstance(model["merges"][0], str)  # as older files have them
    model["merges"] += [" ".join(piece.merge) if texts else list(piece.merge) for piece in pieces if piece.merge]
    return Tokenizer.from_str(json.dumps(state))


def _check_model(tokenizer: Tokenizer) -> None:
    state = json.loads(tokenizer.to_str())["model"]
    if state["type"] != "BPE" or state.get("continuing_subword_prefix") or state.get("end_of_word_suffix"):
        raise ContractError(f"tokenizer: found a model of type {state['type']}, expected byte pair encoding as Llama's")


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """What no merge crosses, each with how often it occurs."""
    words = Counter()
    whole = tokenizer.pre_tokenizer is None or "Metaspace" in str(tokenizer.pre_tokenizer)  # SentencePiece's, made over
    for text in texts:
        text = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        parts = tokenizer.pre_tokenizer.pre_tokenize_str(text) if tokenizer.pre_tokenizer else [(text, None)]
        for part, _ in parts:
            words.update([word for word, _ in WORDS.pre_tokenize_str(part)] if whole else [part])
    return words


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _characters(words: Counter[str], vocabulary: Collection[str]) -> list[str]:
    """Characters that would be spelled as bytes, the most frequent first, up to `COVERAGE` of them all."""
    counts = Counter()
    for word, times in words.items():
        for character in word:
            if character not in vocabulary and character.isprintable() and not character.isspace():
                counts[character] += times
    wanted, found = COVERAGE * counts.total(), []
    for character, times in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if wanted <= 0:
            break
        wanted -= times
        found.append(character)
    return found


def _spelled(tokenizer: Tokenizer, word: str, known: dict[str, int]) -> list[int]:
    """A word in old pieces and new characters."""
    ids, start = [], 0
    for place, character in enumerate(word):
        if character in known:
            ids += [token.id for token in tokenizer.model.tokenize(word[start:place])] + [known[character]]
            start = place + 1
    return ids + [token.id for token in tokenizer.model.tokenize(word[start:])]


def _merges(
    words: list[tuple[list[int], int]], names: dict[int, str], closed: set[int | None], taken: set[str], count: int
) -> Iterator[tuple[int, int, int]]:
    """(new id, left, right) of the most frequent pairs, one after the other; `names` learns the new ones.

    Of pairs as frequent the one of smaller ids comes first. A pair is none where its text is a token already.
    """
    pairs, places = Counter(), defaultdict(set)

    def change(number: int, sign: int) -> set[tuple[int, int]]:
        ids, times = words[number]
        found = set(pairwise(ids))
        for pair in pairwise(ids):
            pairs[pair] += sign * times
        for pair in found if sign > 0 else ():
            places[pair].add(number)
        return found

    for number in range(len(words)):
        change(number, 1)
    heap = [(-times, pair) for pair, times in pairs.items()]
    heapq.heapify(heap)
    while count and heap:
        times, pair = heapq.heappop(heap)
        if -times != pairs[pair]:  # counted again since
            continue
        if times > -2:
            return
        left, right = pair
        text = names[left] + names[right]
        if closed & {left, right} or text in taken:
            continue
        new = len(names)
        names[new] = text
        taken.add(text)
        changed = set()
        for number in sorted(places.pop(pair)):
            changed |= change(number, -1)
            words[number] = (_merged(words[number][0], pair, new), words[number][1])
            changed |= change(number, 1)
        for other in changed:
            if pairs[other] > 0:
                heapq.heappush(heap, (-pairs[other], other))
        count -= 1
        yield new, left, right


def _merged(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    found, place = [], 0
    while place < len(ids):
        merges = tuple(ids[place : place + 2]) == pair
        found.append(new if merges else ids[place])
        place += 2 if merges else 1
    return found
