"""A checkpoint as a GGUF file, read back: every tensor, every field, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from llama_align import LlamaHerdForCausalLM, cli
from llama_align.models.convert import convert
from llama_align.models.gguf_vocabulary import BYTES, _without_marks
from llama_align.models.tensor_files import ConvertError

gguf = pytest.importorskip("gguf")

LLAMA3 = {"rope_type": "llama3", "rope_theta": 3e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@pytest.fixture
def herd(tmp_path, tiny_config, llama3_tokenizer):
    """Saves a LlamaHerd with random weights, none of them the 1 or 0 they begin with, and its tokenizer."""

    def save(tokenizer=llama3_tokenizer, dtype=torch.float32, cls=LlamaHerdForCausalLM, shard="5GB", **changes) -> Path:
        torch.manual_seed(0)
        model = cls(tiny_config(vocab_size=len(tokenizer), **changes)).to(dtype)
        with torch.no_grad():
            for weights in model.parameters():
                weights.add_(torch.randn_like(weights) * 0.1)
        model.save_pretrained(tmp_path / "herd", max_shard_size=shard)
        tokenizer.save_pretrained(tmp_path / "herd")
        return tmp_path / "herd"

    return save


def theirs(name: str) -> str:
    """llama.cpp's name of a tensor."""
    place, kind = name.rsplit(".", 1)
    if place in OUTSIDE:
        return f"{OUTSIDE[place]}.{kind}"
    _, _, layer, inner = place.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


def tensors_of(path: Path) -> dict[str, tuple[str, torch.Tensor]]:
    """Type and numbers of each tensor, in float32."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        data = torch.from_numpy(tensor.data.copy())
        if tensor.tensor_type.name == "BF16":
            data = data.view(torch.bfloat16)
        found[tensor.name] = tensor.tensor_type.name, data.float()
    return found


def fields_of(path: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def neighbours(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Row 2i of a head is its row i, row 2i + 1 its row i + D/2."""
    size = rows.shape[0] // heads
    order = [h * size + i + half * size // 2 for h in range(heads) for i in range(size // 2) for half in (0, 1)]
    return rows[order]


@pytest.mark.parametrize(
    ("changes", "dtype", "written"),
    [
        ({}, None, "F32"),
        ({"tie_word_embeddings": True, "shard": "30KB"}, "float16", "F16"),
        ({"attention_bias": True, "mlp_bias": True, "head_dim": 16, "dtype": torch.bfloat16}, None, "BF16"),
        ({"rope_parameters": LLAMA3, "dtype": torch.bfloat16}, "float32", "F32"),
    ],
)
def test_every_tensor_is_there_in_llama_cpps_order(herd, tmp_path, changes, dtype, written):
    source = herd(**changes)
    found = tensors_of(convert(source, tmp_path / "model.gguf", to="gguf", dtype=dtype))
    factors = found.pop("rope_freqs.weight", None)
    tied = changes.get("tie_word_embeddings", False)
    for file in source.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                if tied and name == "lm_head.weight":
                    continue
                wanted, (kind, numbers) = opened.get_tensor(name), found.pop(theirs(name))
                assert kind == ("F32" if wanted.ndim == 1 else written), name
                if heads := {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2]):
                    wanted = neighbours(wanted, heads)
                    assert not torch.equal(wanted, opened.get_tensor(name))
                assert torch.equal(numbers, (wanted.half() if kind == "F16" else wanted).float()), name
    assert found == {}
    assert (factors is not None) == ("rope_parameters" in changes)
    if factors is not None:
        assert factors[0] == "F32"
        # the fast ones as they are, the slowest by the whole factor
        assert factors[1].shape == (4,)
        torch.testing.assert_close(factors[1][[0, -1]], torch.tensor([1.0, 8.0]))
        rotary = LlamaHerdForCausalLM.from_pretrained(source).model.rotary_emb.inv_freq
        torch.testing.assert_close(3e5 ** (-torch.arange(0, 8, 2) / 8) / factors[1], rotary)


def test_the_configuration_and_a_byte_level_tokenizer(herd, tmp_path, llama3_tokenizer):
    options = {"head_dim": 16, "rms_norm_eps": 1e-4, "rope_parameters": {"rope_type": "linear", "rope_theta": 2e4}}
    options["rope_parameters"]["factor"] = 2.0
    path = convert(herd(**options), tmp_path / "model.gguf", to="gguf", dtype="bfloat16")
    fields = fields_of(path)
    wanted = {
        "general.architecture": "llama",
        "general.name": "model",
        "general.file_type": gguf.LlamaFileType.MOSTLY_BF16,
        "llama.context_length": 256,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.rope.dimension_count": 16,
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 2.0,
        "llama.rope.freq_base": 2e4,
        "llama.vocab_size": 400,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": llama3_tokenizer.chat_template,
    }
    assert {name: fields[name] for name in wanted} == wanted
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-4)
    tokens = fields["tokenizer.ggml.tokens"]
    assert tokens == llama3_tokenizer.convert_ids_to_tokens(range(400))
    for name, token in (
        ("bos", "<|begin_of_text|>"),
        ("eos", "<|eot_id|>"),
        ("eot", "<|eot_id|>"),
        ("eom", "<|eom_id|>"),
    ):
        assert tokens[fields[f"tokenizer.ggml.{name}_token_id"]] == token
    assert tokens[fields["tokenizer.ggml.padding_token_id"]] == "<|finetune_right_pad_id|>"
    control = {i for i, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL}
    assert control == set(range(384, 400))
    state = json.loads(llama3_tokenizer.backend_tokenizer.to_str())
    assert [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]] == list(
        map(tuple, state["model"]["merges"])
    )


def sentencepiece(folder: Path, merges: list[tuple[str, str]]) -> None:
    """Writes a tokenizer as that of Llama 2, with a letter's tokens and some merges."""
    vocab = ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "c"]
    vocab += dict.fromkeys(left + right for left, right in merges)
    normalizers = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "merges": merges}
    state = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": vocab[i]} | flags for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "ByteFallback"},
        "model": model | {"vocab": {token: i for i, token in enumerate(vocab)}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(state))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | names))


@pytest.fixture
def llama2(tmp_path) -> Path:
    config = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=270, **config)).save_pretrained(tmp_path / "llama2")
    return tmp_path / "llama2"


def test_merges_become_scores_of_sentencepiece(llama2, tmp_path):
    merges = [("▁", "a"), ("b", "c"), ("▁a", "bc")]
    sentencepiece(llama2, merges)
    fields = fields_of(convert(llama2, tmp_path / "model.gguf", to="gguf"))
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.add_space_prefix"]) == ("llama", True)
    assert not fields["tokenizer.ggml.add_bos_token"]
    kind, score = fields["tokenizer.ggml.token_type"], fields["tokenizer.ggml.scores"]
    of = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    types = gguf.TokenType
    assert [kind[of[t]] for t in ("<unk>", "</s>", "<0x0A>", "a")] == [
        types.UNKNOWN,
        types.CONTROL,
        types.BYTE,
        types.NORMAL,
    ]
    assert [score[of[t]] for t in ("▁a", "bc", "▁abc")] == [0, -1, -2]
    # rows of the model without a token
    assert kind[of["▁abc"] + 1 :] == [types.UNUSED] * (270 - 266)


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ([("▁", "a"), ("a", "b"), ("▁a", "b")], r"model\.merges: found none of \('▁', 'ab'\), expected it"),
        ([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "c"), ("a", "bc")], "found 'abc' made at two ranks, expected one"),
    ],
)
def test_merges_that_scores_cannot_say_are_refused(llama2, merges, message):
    sentencepiece(llama2, merges)
    with pytest.raises(ConvertError, match=message):
        convert(llama2, llama2.parent / "model.gguf", to="gguf")


def test_what_llama_cpp_has_no_like_of_is_refused(herd, tmp_path, llama2_tokenizer, tiny_config):
    output = tmp_path / "model.gguf"

    def refused(message: str, source: Path = tmp_path / "herd", path: Path = output, **options) -> None:
        with pytest.raises(ConvertError, match=message):
            convert(source, path, to="gguf", **options)
        assert not list(tmp_path.glob("*.gguf*")) + list(tmp_path.glob(".*.part"))

    herd(tokenizer=llama2_tokenizer)
    refused(r"tokenizer\.json, normalizer: found .*llama\.cpp has no other for a Llama")
    herd()
    refused("max_shard_size, link: found one with gguf", max_shard_size="5GB")
    refused("with_code: found with form gguf", with_code=True)
    refused("dtype: found float64, expected float32", dtype="float64")
    refused(r"output: found .*, expected the name of a file that ends in \.gguf", path=tmp_path / "model")
    for fields, message in (
        ({"hidden_act": "gelu"}, "field 'hidden_act': found 'gelu', expected silu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "'rope_type': found 'yarn'"),
    ):
        herd(**fields)
        refused(message)
    herd()
    tokenizer = (tmp_path / "herd" / "tokenizer.json").read_text()
    for change, message in (
        ({"ignore_merges": False}, r"model\.ignore_merges: found false, expected true"),
        ({"type": "Unigram"}, "found no tokenizer"),
    ):
        state = json.loads(tokenizer)
        state["model"] |= change
        (tmp_path / "herd" / "tokenizer.json").write_text(json.dumps(state))
        refused(message)
    (tmp_path / "herd" / "tokenizer.json").write_text(tokenizer.replace(r"\\p{N}{1,3}", r"\\p{N}"))
    refused("pre_tokenizer: found .*, expected ")
    (tmp_path / "herd" / "tokenizer.json").unlink()
    refused(r"tokenizer\.json: found no such file, expected the tokenizer")
    herd(cls=AutoModelForSequenceClassification.from_config, num_labels=1)
    refused("'architectures': found a SequenceClassification, expected a language model")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    refused(r"it is an adapter, which the command", source=tmp_path / "adapter")


def test_numbers_beyond_half_precision_are_refused_and_nothing_is_left(herd, tmp_path):
    source = herd()
    model = LlamaHerdForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = 1e5
    model.save_pretrained(source)
    with pytest.raises(
        ConvertError, match=r"tensor model\.layers\.1\.mlp\.up_proj\.weight: found numbers up to 1e\+05"
    ):
        convert(source, tmp_path / "model.gguf", to="gguf", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["herd"]


def test_the_command_writes_one_file_and_replaces_only_a_gguf(herd, tmp_path, capsys):
    source, output = str(herd()), tmp_path / "new" / "model.gguf"
    arguments = ["convert", source, str(output), "--to", "gguf"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    assert [path.name for path in output.parent.iterdir()] == ["model.gguf"]
    first = output.read_bytes()
    assert cli.main(arguments) == 2
    assert "found that it exists, expected a new file; --overwrite" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite", "--dtype", "float16"]) == 0
    assert len(output.read_bytes()) < len(first)
    output.write_text("letters")
    assert cli.main([*arguments, "--overwrite"]) == 2
    assert output.read_text() == "letters"


def test_a_tokenizer_larger_than_the_model_is_refused(herd, tmp_path, llama3_tokenizer):
    source = herd()
    larger = AutoTokenizer.from_pretrained(source)
    larger.add_tokens(["more"])
    larger.save_pretrained(source)
    with pytest.raises(ConvertError, match="found ids up to 400, expected at most 399, the model's last"):
        convert(source, tmp_path / "model.gguf", to="gguf")


def test_a_step_that_only_undoes_the_templates_marks_is_no_obstacle():
    prepend, spaces = (
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    )
    own = {"type": "Sequence", "normalizers": [prepend, spaces]}
    pattern = "(?<=<)\ue000(?=s>)|(?<=<)\ue000(?=\\|)"
    marks = {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}
    assert _without_marks({"type": "Sequence", "normalizers": [marks, own]}) == own
    assert _without_marks({"type": "Sequence", "normalizers": [marks]}) is None
    assert _without_marks(own) == own
    for other in ({"pattern": {"Regex": "x|" + pattern}}, {"pattern": {"Regex": "."}}, {"content": "x"}):
        assert _without_marks(marks | other) == marks | other
