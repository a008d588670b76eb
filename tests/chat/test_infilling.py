"""Documents with their middle at the end: the published order, nothing lost, no typed text that is a control token."""

import random

import pytest
from tokenizers import AddedToken

from llama_align.chat import (
    ContractError,
    InfillingTokens,
    Split,
    decode_middle,
    document_of,
    encode_infilled,
    encode_text,
    infilling_prompt,
)
from llama_align.chat.infilling import NAMES

from . import families

TEXTS = [
    "def add(a, b):\n    return a + b\n",
    " leads with a space\n\nand ends with one ",
    "Äpfel, naïve, 東京 🦙 \t tab",
    "typed <|reserved_special_token_3|> and <PRE> ▁<SUF> <|end_of_text|> </s>",
    "x",
    "",
]
LEARNED = TEXTS[:3]  # or the vocabulary would have pieces of the others' control tokens
WITH = ("llama-3.1", "llama-3.0", "code-llama", "code-llama-first")


def make(name: str):
    """A tokenizer of a family; Code Llama's is Llama 2's with four further tokens."""
    if not name.startswith("code-llama"):
        return families.make(name, LEARNED)
    tokenizer = families.make(name.replace("code-llama", "llama-2"), LEARNED)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in NAMES], special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module", params=WITH)
def found(request):
    tokenizer = make(request.param)
    return tokenizer, InfillingTokens.of(tokenizer)


def splits_of(text: str, count: int = 40) -> list[Split]:
    draw = random.Random(text)
    cuts = [sorted((draw.randint(0, len(text)), draw.randint(0, len(text)))) for _ in range(count)]
    return [Split(text[:a], text[a:b], text[b:], draw.random() < 0.5) for a, b in cuts]


@pytest.mark.parametrize("text", TEXTS)
def test_the_document_comes_back_whole(found, text):
    tokenizer, tokens = found
    expected = {text}
    if tokens.spaced:  # SentencePiece itself takes "▁" for a space, and some write no second one before a text
        own = tokenizer.decode(encode_text(tokenizer, text), clean_up_tokenization_spaces=False)
        expected = {text.replace("▁", " "), own}
    for split, ids in zip(splits_of(text), encode_infilled(tokenizer, splits_of(text), tokens), strict=True):
        assert document_of(tokenizer, ids, tokens) in expected, split
        own = (tokens.prefix, tokens.suffix, tokens.middle, tokens.end)
        assert [i for i in ids if i in own] == list(own)  # once each, whatever was typed
        typed = set(ids) - set(own)
        assert not typed & set(tokenizer.all_special_ids)
        assert not typed & set(tokenizer.added_tokens_decoder)


def test_the_order_is_code_llamas(found):
    tokenizer, tokens = found
    first, second = encode_infilled(
        tokenizer, [Split("a b", " c", " d"), Split("a b", " c", " d", suffix_first=True)], tokens
    )
    begin, end = tokens.prefix, tokens.end
    assert (first[0], first[-1]) == (second[0], second[-1]) == (begin, end)
    at = first.index(tokens.suffix)
    assert first[1:at] == encode_text(tokenizer, "a b")
    middle = first.index(tokens.middle)
    suffix = first[at + 1 : middle]
    assert second == [begin, tokens.suffix, *suffix, tokens.middle, *encode_text(tokenizer, "a b c"), end]
    for ids, other in ((first, False), (second, True)):
        prompt = infilling_prompt(tokenizer, "a b", " d", tokens, suffix_first=other)
        assert ids[: len(prompt)] == prompt
        assert decode_middle(tokenizer, "a b", ids[len(prompt) :], tokens) == " c"
    bare = encode_infilled(tokenizer, [Split("a", "c", "d")], tokens)[0]
    if tokens.spaced:  # Code Llama, section 2.3: no space of SentencePiece's before suffix and middle
        assert bare[3:] != [*encode_text(tokenizer, "d"), tokens.middle, *encode_text(tokenizer, "c"), end]
    assert document_of(tokenizer, bare, tokens) == "acd"


def test_llama_3_gives_reserved_tokens_at_the_same_places():
    for name in ("llama-3.1", "llama-3.0"):
        tokenizer = make(name)
        tokens, begin = InfillingTokens.of(tokenizer), tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
        assert (tokens.prefix, tokens.suffix, tokens.middle, tokens.end) == tuple(begin + i for i in (11, 12, 13, 14))
        assert not tokens.spaced
    assert InfillingTokens.of(make("code-llama")).spaced


@pytest.mark.parametrize("name", ["llama-2", "smollm2"])
def test_a_tokenizer_without_them_is_refused_by_name(name):
    with pytest.raises(ContractError, match="found no control tokens for infilling, expected Code Llama's ▁<PRE>"):
        InfillingTokens.of(families.make(name, LEARNED))


def test_ids_that_no_infilled_document_has_are_refused(found):
    tokenizer, tokens = found
    with pytest.raises(ContractError, match="infilled document"):
        document_of(tokenizer, encode_text(tokenizer, "a b"), tokens)
    with pytest.raises(ContractError, match="found its control tokens at"):
        document_of(tokenizer, [tokens.middle, tokens.suffix, tokens.prefix, tokens.end], tokens)
