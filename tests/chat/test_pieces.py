"""Byte pair encoding that goes on: what is learned, what it leaves alone, and how a text is encoded with it."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from llama_align import cli
from llama_align.chat import ContractError, encode_text
from llama_align.chat.adding import add_tokens, characters_per_token, extended
from llama_align.chat.pieces import _words, learn_pieces, with_pieces
from llama_align.chat.tokenizer import special_tokens

from ..conftest import made_up_text
from . import bases

SYLLABLES = ["gra", "blö", "ñu", "pfe", "шо", "ta"]


def other_language(words: int, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(words))


TEXTS = [other_language(60, seed) for seed in range(30)]
HELD = [other_language(60, seed) for seed in range(100, 105)]


@pytest.fixture(scope="module", params=["sentencepiece", "byte_level", "llama3", "llama2"])
def base(request, llama3_tokenizer, llama2_tokenizer):
    made = {"llama3": llama3_tokenizer, "llama2": llama2_tokenizer}
    return made[request.param] if request.param in made else getattr(bases, request.param)()


def test_pieces_shorten_their_language_and_leave_the_other_alone(base):
    pieces = learn_pieces(base.backend_tokenizer, TEXTS, 40)
    after = extended(base, [], pieces)
    assert len(after) == len(base) + 40
    assert characters_per_token(after, HELD) > 1.2 * characters_per_token(base, HELD)
    new = {piece.text for piece in pieces}
    for seed in range(60):
        text = made_up_text(8, 1000 + seed)
        ids = encode_text(after, text)
        if not new & set(after.convert_ids_to_tokens(ids)):
            assert ids == encode_text(base, text)
        assert after.decode(ids) == base.decode(encode_text(base, text)) == text
    for text in HELD:
        assert after.decode(encode_text(after, text)) == text


def test_a_text_is_encoded_as_it_was_counted(base):
    """Training and encoding merge alike: after N merges the most frequent pair left is the next one learned."""
    few, more = (learn_pieces(base.backend_tokenizer, TEXTS, count) for count in (20, 21))
    assert more[:20] == few
    tokenizer = with_pieces(base.backend_tokenizer, few)
    pairs = Counter()
    for word, times in _words(tokenizer, TEXTS).items():
        tokens = [token.value for token in tokenizer.model.tokenize(word)]
        for pair in pairwise(tokens):
            pairs[pair] += times
    counts = {
        pair: n for pair, n in pairs.items() if "".join(pair) not in tokenizer.get_vocab() and "<0x" not in str(pair)
    }
    if more[20].merge:
        assert counts[more[20].merge] == max(counts.values())


def test_from_an_empty_start_it_is_what_tokenizers_learns():
    """The library's trainer on the same words, from the alphabet alone."""
    alphabet = sorted({character for text in TEXTS for character in text} - {" "})

    def tokenizer(vocab_size):
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        made.train_from_iterator(TEXTS, trainer)
        return made

    count = len(alphabet)
    theirs = tokenizer(count + 25)
    pieces = learn_pieces(tokenizer(count), TEXTS, 25)
    ours = with_pieces(tokenizer(count), pieces)
    assert {piece.text for piece in pieces} == set(theirs.get_vocab()) - set(alphabet)
    assert [ours.encode(text).tokens for text in HELD] == [theirs.encode(text).tokens for text in HELD]


def test_unknown_characters_come_first_where_bytes_stand_for_them():
    tokenizer = bases.sentencepiece()
    pieces = learn_pieces(tokenizer.backend_tokenizer, TEXTS, 30)
    characters = [piece for piece in pieces if piece.merge is None]
    assert {"ш", "ñ", "ö"} <= {piece.text for piece in characters}
    assert pieces[: len(characters)] == characters
    names = tokenizer.convert_ids_to_tokens(list(next(p.ids for p in characters if p.text == "ш")))
    assert names == [f"<0x{byte:02X}>" for byte in "ш".encode()]


def test_a_piece_starts_from_the_mean_of_what_spelled_it(tmp_path, base):
    folder = bases.write(tmp_path / "base", base, pad_token_id=base.pad_token_id)
    report = add_tokens(folder, tmp_path / "out", texts=TEXTS, pieces=40, measured={"held": HELD}, control_tokens=False)
    assert report["characters_per_token"]["held"]["after"] > report["characters_per_token"]["held"]["before"]
    after = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(after) == len(base) + 40
    assert after.all_special_ids == base.all_special_ids
    new, old = (
        load_file(place / "model.safetensors")["model.embed_tokens.weight"] for place in (tmp_path / "out", folder)
    )
    assert torch.equal(new[: len(base)], old)
    for number, piece in enumerate(learn_pieces(base.backend_tokenizer, TEXTS, 40), start=len(base)):
        assert after.convert_ids_to_tokens(number) == piece.text
        assert max(piece.ids) < len(base)
        torch.testing.assert_close(new[number], old[list(piece.ids)].mean(0))


def test_added_tokens_keep_their_ids_behind_pieces(llama3_tokenizer):
    """Llama 3's control tokens lie behind its vocabulary, and pieces behind them."""
    after = extended(llama3_tokenizer, [], learn_pieces(llama3_tokenizer.backend_tokenizer, TEXTS, 10))
    names = special_tokens()
    assert after.convert_tokens_to_ids(names) == llama3_tokenizer.convert_tokens_to_ids(names)
    dialog = [{"role": "user", "content": "ba do <|eot_id|> ki"}]
    assert after.apply_chat_template(dialog)["input_ids"] == llama3_tokenizer.apply_chat_template(dialog)["input_ids"]


def test_no_piece_is_a_control_token():
    tokenizer = bases.byte_level()
    texts = ["<|eot_id|> <|endoftext|>"] * 50
    pieces = learn_pieces(tokenizer.backend_tokenizer, texts, 12, special_tokens())
    assert not {piece.text for piece in pieces} & {*special_tokens(), "<|endoftext|>"}


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ContractError, match=r"pieces: found .* that occur twice in the text, expected 50"):
        learn_pieces(bases.byte_level().backend_tokenizer, ["gra blö gra"], 50)
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ContractError, match="found a model of type WordLevel, expected byte pair encoding"):
        learn_pieces(words, TEXTS, 5)
    assert with_pieces(words, []) is words


def test_the_command_prints_characters_per_token(tmp_path, capsys):
    base = bases.write(tmp_path / "base", bases.sentencepiece())
    (tmp_path / "text.jsonl").write_text("".join(f'{{"lang": "x", "text": "{text}"}}\n' for text in TEXTS))
    (tmp_path / "english.jsonl").write_text('{"text": "ba do ki"}\n')
    source = f"{{path: {tmp_path / 'text.jsonl'}, where: {{lang: x}}}}"
    args = ["add-tokens", str(base), str(tmp_path / "out"), "--text", source, "--pieces", "30"]
    assert cli.main([*args, "--measure", str(tmp_path / "english.jsonl")]) == 0
    said = capsys.readouterr().out
    assert "16 control tokens and 30 pieces" in said
    assert "| characters per token | before | after |" in said
    assert "| held out of --text |" in said
    assert "english.jsonl |" in said
