"""Which documents are split and where, and what of them stands in rows."""

import pytest

from llama_align.chat import ContractError, InfillingTokens, document_of
from llama_align.data import Document, Infilling, SourceError, document_rows, tokenized, tokens_of
from llama_align.data.tokenized import document_ids

from ..chat import families
from ..conftest import made_up_text

TEXTS = [made_up_text(12, seed) for seed in range(400)]


def documents_in(rows, tokenizer) -> list[list[int]]:
    """The documents of packed rows, cut where one begins or a row does."""
    eos, pad, found = tokens_of(tokenizer).eos, tokens_of(tokenizer).pad, []
    for row in rows:
        ids, starts = row["input_ids"], [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if ids[start] != pad:
                found.append(ids[start:end])
    assert all(found)
    assert eos not in [ids[0] for ids in found]
    return found


def test_shares_and_cuts_are_as_asked():
    infilling = Infilling(rate=0.9, suffix_first=0.5, seed=3)
    texts = [f"{number} {text}" for number in range(10) for text in TEXTS]
    splits = [infilling.split(text) for text in texts]
    kept = [(text, split) for text, split in zip(texts, splits, strict=True) if split]
    error = 4 * (0.25 / len(kept)) ** 0.5
    assert len(kept) / len(texts) == pytest.approx(0.9, abs=4 * (0.09 / len(texts)) ** 0.5)
    assert sum(split.suffix_first for _, split in kept) / len(kept) == pytest.approx(0.5, abs=error)
    assert all(split.prefix + split.middle + split.suffix == text for text, split in kept)
    # of two even cuts the parts are a third each
    for part in ("prefix", "middle", "suffix"):
        share = sum(len(getattr(split, part)) / len(text) for text, split in kept) / len(kept)
        assert share == pytest.approx(1 / 3, abs=error)


def test_a_split_follows_from_text_and_seed():
    text = TEXTS[0]
    assert Infilling(1.0, seed=1).split(text) == Infilling(1.0, seed=1).split(text)
    assert len({Infilling(1.0, seed=seed).split(text) for seed in range(20)}) > 15
    assert Infilling(1.0).split("") == ("", "", "", Infilling(1.0).split("").suffix_first)
    assert all(Infilling(1.0, suffix_first=0.0).split(text).suffix_first is False for text in TEXTS)
    assert not any(Infilling(0.0).split(text) for text in TEXTS)


@pytest.mark.parametrize("given", [{"rate": 1.5}, {"suffix_first": -0.1}])
def test_a_share_that_is_none_is_refused(given):
    with pytest.raises(SourceError, match="expected a share from 0 to 1"):
        Infilling(**given)


def test_rows_hold_the_documents_in_parts(tokenizer):
    documents, length = [Document(text) for text in TEXTS], 256
    tokens, infilling = InfillingTokens.of(tokenizer), Infilling(0.9, longest=length)
    own = {tokens.prefix, tokens.suffix, tokens.middle, tokens.end}
    rows = document_rows(documents, tokenizer, length, "bfd", infilling)
    pieces = documents_in(rows, tokenizer)
    around = tokens_of(tokenizer)
    moved = [ids for ids in pieces if own & set(ids)]
    assert all((ids[0], ids[-1]) == (around.bos, around.eos) and own <= set(ids) for ids in moved)
    texts = sorted(document_of(tokenizer, ids[1:-1], tokens) for ids in moved)
    assert texts == sorted(text for text in TEXTS if infilling.split(text))
    assert len(pieces) - len(moved) == len(TEXTS) - len(texts) > 10
    assert document_rows(documents, tokenizer, length, "bfd", infilling)[:] == rows[:]


def test_a_document_keeps_its_form_whatever_stands_beside_it(tokenizer, monkeypatch):
    infilling = Infilling(0.9, longest=40)
    whole = list(document_ids(TEXTS, tokenizer, infilling))
    monkeypatch.setattr(tokenized, "ENCODED", 7)
    assert list(document_ids(TEXTS, tokenizer, infilling)) == whole
    assert [next(document_ids([text], tokenizer, infilling)) for text in TEXTS[:20]] == whole[:20]
    begin = InfillingTokens.of(tokenizer).prefix
    assert max(len(ids) for ids in whole if begin in ids) <= 40 < max(map(len, whole))


def test_without_infilling_rows_are_what_they_were(tokenizer):
    documents = [Document(text) for text in TEXTS[:20]]
    plain = document_rows(documents, tokenizer, 64)
    assert document_rows(documents, tokenizer, 64, infilling=Infilling(0.0))[:] == plain[:]
    assert document_rows(documents, tokenizer, 64, infilling=Infilling(1.0, longest=4))[:] == plain[:]  # none fits


def test_a_tokenizer_without_the_tokens_is_refused():
    other = families.make("smollm2", TEXTS[:20])
    with pytest.raises(ContractError, match="found no control tokens for infilling"):
        document_rows([Document(TEXTS[0])], other, 64, infilling=Infilling(1.0))
