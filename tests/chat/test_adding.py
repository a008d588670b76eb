"""Control tokens added to base models: ids, weights and ordinary text stay, typed text never becomes a token."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_align import cli, recipe
from llama_align.chat import ContractError, ControlTokens, encode_text, render, roles_of
from llama_align.chat.adding import add_tokens, extended, missing_tokens
from llama_align.chat.tokenizer import SPECIAL_POSITIONS, special_tokens
from llama_align.models.tensor_files import ConvertError

from ..conftest import made_up_text
from . import bases
from .test_contract import HOSTILE, dialogs, random_character

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
KINDS = ("sentencepiece", "byte_level", "llama30")


@pytest.fixture(scope="module")
def base_tokenizers(llama3_tokenizer):
    return {
        "sentencepiece": bases.sentencepiece(),
        "byte_level": bases.byte_level(),
        "llama30": bases.llama30(llama3_tokenizer),
    }


@pytest.fixture(scope="module")
def added(base_tokenizers, tmp_path_factory):
    """Kind -> the base's folder and that of the same with control tokens."""
    made = {}
    for kind, tokenizer in base_tokenizers.items():
        folder = tmp_path_factory.mktemp(kind)
        base = bases.write(folder / "base", tokenizer)
        add_tokens(base, folder / "added", pad_to_multiple_of=64)
        made[kind] = base, folder / "added"
    return made


@pytest.fixture(params=KINDS)
def pair(request, added):
    return added[request.param]


def weights(folder) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def ordinary_text(draw: random.Random) -> str:
    pieces = [
        made_up_text(draw.randint(1, 8), draw.randrange(10**6)),
        *draw.choices(["\n", "\n\n", "  ", "½", "東"], k=2),
    ]
    pieces += [random_character(draw) for _ in range(draw.randint(0, 5))]
    draw.shuffle(pieces)
    return "".join(pieces)


def test_ordinary_text_is_encoded_as_before(pair):
    before, after = map(AutoTokenizer.from_pretrained, pair)
    draw = random.Random(0)
    for _ in range(300):
        text = ordinary_text(draw)
        assert encode_text(after, text) == encode_text(before, text)
        assert after(text, add_special_tokens=False)["input_ids"] == before(text, add_special_tokens=False)["input_ids"]
    assert {name: after.get_vocab()[name] for name in before.get_vocab()} == before.get_vocab()


def test_typed_text_never_becomes_a_control_token(pair):
    after = AutoTokenizer.from_pretrained(pair[1])
    control = {after.convert_tokens_to_ids(name) for name in SPECIAL_POSITIONS} | set(after.all_special_ids)
    control -= {after.unk_token_id}  # what a byte without a token of its own is
    own = [str(token) for token in after.added_tokens_decoder.values()]
    for text in [*own, *(f"{name}{name}" for name in own), *(f"<{name}>" for name in own), *HOSTILE]:
        assert not control & set(encode_text(after, f"a {text} b"))
        rendered = after.apply_chat_template([{"role": "user", "content": f"a {text} b"}], return_dict=False)
        plain = after.apply_chat_template([{"role": "user", "content": "a b"}], return_dict=False)
        assert [i for i in rendered if i in control] == [i for i in plain if i in control], text
        assert text not in str(own) or text in after.decode(rendered)


def test_the_template_and_the_contract_agree(pair):
    after = AutoTokenizer.from_pretrained(pair[1])
    tokens = ControlTokens.of(after)
    assert tokens.dialect.name == "Llama 3.1"
    for number, dialog in enumerate(dialogs(150)):
        ours = render(after, dialog, add_generation_prompt=number % 2 == 0, tokens=tokens)
        assert ours.ids == after.apply_chat_template(dialog, add_generation_prompt=number % 2 == 0, return_dict=False)
        assert roles_of(torch.tensor([ours.ids]), tokens)[0].tolist() == ours.roles


def test_old_rows_stay_and_new_ones_are_means(pair):
    before, after = map(AutoTokenizer.from_pretrained, pair)
    old, new = weights(pair[0]), weights(pair[1])
    assert old.keys() == new.keys()
    count = len(before)
    for name, tensor in old.items():
        if name not in (EMBEDDINGS, HEAD):
            assert torch.equal(tensor, new[name])
            continue
        assert torch.equal(new[name][:count], tensor)
        assert new[name].shape[0] % 64 == 0
        ends = {after.convert_tokens_to_ids("<|begin_of_text|>"): before.bos_token_id}
        ends[after.convert_tokens_to_ids("<|end_of_text|>")] = before.eos_token_id
        for row in range(count, len(new[name])):
            expected = tensor[ends[row]] if row in ends else tensor.mean(0)
            torch.testing.assert_close(new[name][row], expected)


def test_what_is_missing_is_added_once(added):
    names = {kind: json.loads((folder / "vocabulary.json").read_text()) for kind, (_, folder) in added.items()}
    assert names["sentencepiece"]["control_tokens"] == names["byte_level"]["control_tokens"] == special_tokens()
    assert set(names["llama30"]["control_tokens"]) >= set(bases.ABSENT)
    for _, folder in added.values():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert missing_tokens(tokenizer) == []
        contents = [token["content"] for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]]
        assert len(contents) == len(set(contents))
        assert set(SPECIAL_POSITIONS) <= set(contents)


def test_all_files_say_the_same(pair):
    tokenizer = AutoTokenizer.from_pretrained(pair[1])
    config, generation = (
        json.loads((pair[1] / f"{name}.json").read_text()) for name in ("config", "generation_config")
    )
    assert config["vocab_size"] == len(weights(pair[1])[EMBEDDINGS])
    assert config["bos_token_id"] == generation["bos_token_id"] == tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    assert config["eos_token_id"] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|eot_id|>")
    ends = tokenizer.convert_tokens_to_ids(["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"])
    assert generation["eos_token_id"][-3:] == ends
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert (pair[1] / "LICENSE").read_text() == "as it was\n"
    assert not (pair[1] / "tokenizer.model").exists()  # it would say what is no longer so
    assert recipe.load_model(str(pair[1]), tokenizer=recipe.load_tokenizer(str(pair[1]))).config.vocab_size % 64 == 0


@pytest.mark.parametrize("tied", [True, False])
def test_shards_and_half_precision(base_tokenizers, tmp_path, tied):
    options = {"dtype": torch.bfloat16, "shard": "20KB", "tie_word_embeddings": tied}
    base = bases.write(tmp_path / "base", base_tokenizers["sentencepiece"], **options)
    add_tokens(base, tmp_path / "added")
    old, new = weights(base), weights(tmp_path / "added")
    assert (HEAD in new) == (not tied)
    assert len(list((tmp_path / "added").glob("*.safetensors"))) == len(list(base.glob("*.safetensors"))) > 1
    index = json.loads((tmp_path / "added/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in new.values())
    for name in {EMBEDDINGS, HEAD} & set(new):
        assert new[name].dtype == torch.bfloat16
        assert torch.equal(new[name][: len(old[name])], old[name])
        assert torch.equal(new[name][-1], old[name].float().mean(0).bfloat16())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "added", dtype="auto")
    ids = torch.arange(10)[None]
    before = AutoModelForCausalLM.from_pretrained(base, dtype="auto")(ids).logits
    torch.testing.assert_close(model(ids).logits[..., : before.shape[-1]], before)


def test_rows_of_no_token_are_taken_first(base_tokenizers, tmp_path):
    """A vocabulary that was padded does not grow where there is room, nor shrink."""
    tokenizer = base_tokenizers["sentencepiece"]
    base = bases.write(tmp_path / "base", tokenizer, vocab_size=len(tokenizer) + 40)
    add_tokens(base, tmp_path / "added")
    new = weights(tmp_path / "added")[EMBEDDINGS]
    assert len(new) == len(tokenizer) + 40
    torch.testing.assert_close(new[-1], weights(base)[EMBEDDINGS][: len(tokenizer)].mean(0))


def test_what_cannot_be_added_to_is_refused(added, tmp_path):
    base, done = added["sentencepiece"]
    with pytest.raises(ContractError, match="has all of Llama 3's control tokens, expected something to add"):
        add_tokens(done, tmp_path / "again")
    with pytest.raises(ContractError, match="was to get neither pieces nor tokens"):
        add_tokens(base, tmp_path / "again", control_tokens=False)
    with pytest.raises(ContractError, match="pad_to_multiple_of: found 0, expected at least 1"):
        add_tokens(base, tmp_path / "again", pad_to_multiple_of=0)
    with pytest.raises(ConvertError, match="found that it exists"):
        add_tokens(base, done)
    with pytest.raises(ConvertError, match="no such folder"):
        add_tokens(tmp_path / "absent", tmp_path / "again")
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_would_be_other_tokens_before_an_answer_is_refused():
    """SmolLM2 has such a tokenizer, and a dialect of its own."""
    tokenizer = bases.byte_level(gpt2=True)
    with pytest.raises(ContractError, match=r"found two newlines as .* where an answer is asked for"):
        extended(tokenizer, missing_tokens(tokenizer))


def test_a_text_that_would_become_a_token_is_refused(base_tokenizers):
    """Where whole words are looked up before merges, a control token in the vocabulary would be one."""
    tokenizer = base_tokenizers["byte_level"]
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"] |= {"ignore_merges": True, "vocab": state["model"]["vocab"] | {"<|eot_id|>": 320}}
    state["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    state["added_tokens"] = []
    broken = type(tokenizer)(tokenizer_object=type(tokenizer.backend_tokenizer).from_str(json.dumps(state)))
    broken.bos_token = broken.eos_token = "a"
    with pytest.raises(ContractError, match=r"<\|eot_id\|>.*typed"):
        extended(broken, missing_tokens(broken))


def test_the_command_says_what_it_did(added, tmp_path, capsys):
    base, _ = added["byte_level"]
    assert cli.main(["add-tokens", str(base), str(tmp_path / "out"), "--pad-to-multiple-of", "8"]) == 0
    assert "16 control tokens and 0 pieces, 321 tokens before and 337 after" in capsys.readouterr().out
    assert cli.main(["add-tokens", str(base), str(tmp_path / "other"), "--pieces", "5"]) == 2
    assert "pieces: found 5 with 0 files of --text, expected both or neither" in capsys.readouterr().err
