"""Checkpoints between Llama's form and LlamaHerd's: what is written, what is refused, and the memory it takes."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from llama_align.models import tensor_files
from llama_align.models.convert import convert
from llama_align.models.portable import AUTO_MAP
from llama_align.models.tensor_files import ConvertError, parse_size

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 80,
    "hidden_act": "silu",
    "initializer_range": 0.2,
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "transformers_version": "4.43.0",
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# the fields of published checkpoints that differ from one to the other, as they were published
PUBLISHED = {
    "llama-1": {"architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048, "rms_norm_eps": 1e-06},
    "llama-2": {"num_key_value_heads": 4, "pretraining_tp": 1, "rope_scaling": None, "torch_dtype": "float16"},
    "llama-3": {"num_key_value_heads": 2, "rope_theta": 500000.0, "attention_bias": False, "torch_dtype": "bfloat16"},
    "llama-3.1": {
        "num_key_value_heads": 2,
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3 | {"rope_type": "llama3"},
        "eos_token_id": [1, 2, 3],
        "max_position_embeddings": 131072,
        "mlp_bias": False,
    },
    "llama-3.2": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3 | {"rope_type": "llama3", "factor": 32.0},
        "tie_word_embeddings": True,
    },
    "tinyllama": {"num_key_value_heads": 1, "rope_scaling": None, "max_position_embeddings": 2048},
    "smollm2": {
        "num_key_value_heads": 4,
        "rope_theta": 100000,
        "rope_interleaved": False,
        "is_llama_config": True,
        "tie_word_embeddings": True,
        "transformers.js_config": {"dtype": "q4"},
    },
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 20000.0},
    "transformers 5": {"rope_parameters": LLAMA3 | {"rope_type": "llama3", "rope_theta": 3e5}, "dtype": "float32"},
    "other heads": {"head_dim": 16, "attention_bias": True, "mlp_bias": True},
}


def fields_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def write(folder: Path, fields: dict, cls=LlamaForCausalLM, **saving) -> Path:
    """A checkpoint with random weights and with `fields` as its config.json, letter by letter."""
    fields = SMALL | fields
    torch.manual_seed(0)
    read = {k: v for k, v in deepcopy(fields).items() if k not in ("model_type", "torch_dtype", "dtype")}
    config = LlamaConfig.from_dict(read)  # which fills in what it is given
    cls(config).save_pretrained(folder, **saving)
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "tokenizer.json").write_text('{"made": "up"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "LICENSE.txt").write_text("terms")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    (folder / "training_args.bin").write_bytes(b"not carried")
    (folder / "merges_backup.tar").write_bytes(b"not carried")
    (folder / "vocabulary_experiments").mkdir()
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("model*")}


def logits(folder: Path, auto=AutoModelForCausalLM) -> torch.Tensor:
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(3, 33)[None]).logits


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_generation_goes_there_and_back(tmp_path, name):
    source = write(tmp_path / "llama", PUBLISHED[name], max_shard_size="30KB")
    assert len(weights(source)) > 3
    herd, back = convert(source, tmp_path / "herd"), convert(tmp_path / "herd", tmp_path / "back")
    assert weights(herd) == weights(back) == weights(source)
    assert fields_of(herd)["architectures"] == ["LlamaHerdForCausalLM"]
    assert fields_of(herd)["model_type"] == "llama_herd"
    assert not {"rope_theta", "rope_scaling", "torch_dtype"} & set(fields_of(herd))
    wanted = SMALL | PUBLISHED[name] | {"architectures": ["LlamaForCausalLM"]}
    found = fields_of(back)
    scaling = (found.pop("rope_scaling") or {}).items()
    assert (wanted.pop("rope_scaling", None) or {}).items() <= scaling
    assert wanted.items() <= found.items()
    assert LlamaConfig.from_pretrained(back).rope_parameters == LlamaConfig.from_pretrained(source).rope_parameters
    torch.testing.assert_close(logits(herd), logits(source), atol=1e-5, rtol=0)
    assert torch.equal(logits(back), logits(source))
    for folder in (herd, back):
        assert (folder / "tokenizer.json").read_text() == '{"made": "up"}'
        assert {"chat_template.jinja", "LICENSE.txt", "generation_config.json"} <= {p.name for p in folder.iterdir()}
        assert (folder / "additional_chat_templates" / "tools.jinja").read_text() == "{{ tools }}"
        others = ("training_args.bin", "merges_backup.tar", "vocabulary_experiments")
        assert not any((folder / name).exists() for name in others)
    assert {path.name for path in tmp_path.iterdir()} == {"llama", "herd", "back"}


@pytest.mark.parametrize("name", ["llama-2", "llama-3.2", "transformers 5"])
def test_the_llama_form_says_everything_in_old_fields_and_new(tmp_path, name):
    source = write(tmp_path / "source", PUBLISHED[name])
    convert(source, tmp_path / "herd", with_code=True)
    found = fields_of(convert(tmp_path / "herd", tmp_path / "llama", dtype="bfloat16"))
    rope = LlamaConfig.from_pretrained(source).rope_parameters
    assert found["rope_parameters"] == rope
    assert found["rope_theta"] == rope["rope_theta"]
    # a reader of the old fields alone must not take the scaling for none, nor none for one
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    assert found["rope_scaling"] == (scaling if rope["rope_type"] == "llama3" else None)
    assert found["dtype"] == found["torch_dtype"] == "bfloat16"
    assert (found["head_dim"], found["model_type"]) == (8, "llama")
    assert "auto_map" not in found
    assert not list((tmp_path / "llama").glob("*.py"))


@pytest.mark.parametrize("style", ["llama2_tokenizer", "llama3_tokenizer"])
def test_tokenizers_give_the_same_ids_in_every_form(tmp_path, style, request):
    tokenizer = deepcopy(request.getfixturevalue(style))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    source = write(tmp_path / "llama", {"vocab_size": 600})
    for name in ("tokenizer.json", "additional_chat_templates/tools.jinja"):
        (source / name).unlink()
    tokenizer.save_pretrained(source)
    herd, back = convert(source, tmp_path / "herd"), convert(tmp_path / "herd", tmp_path / "back")
    text = "bado kilu, naïve\n\n東京 <|tool|> x  y"
    for folder in (source, herd, back):
        found = AutoTokenizer.from_pretrained(folder)
        assert found(text).input_ids == tokenizer(text).input_ids
        assert found.all_special_tokens == tokenizer.all_special_tokens
        assert found.chat_template == tokenizer.chat_template
    # what transformers 4 knows
    fields = json.loads((back / "tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "<|tool|>" in fields["additional_special_tokens"]
    assert "extra_special_tokens" not in fields


def test_code_goes_beside_the_weights_where_asked(tmp_path):
    herd = convert(write(tmp_path / "llama", {}), tmp_path / "herd", with_code=True)
    assert fields_of(herd)["auto_map"] == AUTO_MAP
    assert (herd / "modeling_llama_herd.py").is_file()
    assert not list(convert(tmp_path / "llama", tmp_path / "plain").glob("*.py"))
    with pytest.raises(ConvertError, match=r"with_code: found with form llama, expected herd"):
        convert(herd, tmp_path / "again", with_code=True)


@pytest.mark.parametrize("name", ["SequenceClassification", "TokenClassification"])
def test_classifiers_go_there_and_back(tmp_path, name, tiny_config):
    auto = {
        "SequenceClassification": AutoModelForSequenceClassification,
        "TokenClassification": AutoModelForTokenClassification,
    }[name]
    config = LlamaConfig(**{k: v for k, v in SMALL.items() if k != "model_type"}, num_labels=3)
    auto.from_config(config).save_pretrained(tmp_path / "llama")
    auto.from_config(tiny_config(num_labels=3)).save_pretrained(tmp_path / "herd")
    for start in ("llama", "herd"):
        other, back = tmp_path / f"{start}-other", tmp_path / f"{start}-back"
        convert(tmp_path / start, other)
        convert(other, back)
        assert weights(back) == weights(other) == weights(tmp_path / start)
        models = [auto.from_pretrained(folder) for folder in (tmp_path / start, other, back)]
        assert models[0].state_dict().keys() == models[1].state_dict().keys() == models[2].state_dict().keys()
        assert type(models[0]) is type(models[2]) is not type(models[1])
        for folder in (other, back):
            torch.testing.assert_close(logits(folder, auto), logits(tmp_path / start, auto), atol=1e-5, rtol=0)
        dropouts = {model.dropout.p for model in models if hasattr(model, "dropout")}
        assert len(dropouts) <= 1


def test_rotary_frequencies_of_old_checkpoints_are_dropped(tmp_path):
    source = write(tmp_path / "old", {})
    tensors = load_file(source / "model.safetensors")
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
    save_file(tensors | old, source / "model.safetensors", metadata={"format": "pt"})
    written = load_file(convert(source, tmp_path / "herd") / "model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in written.items())


@pytest.mark.parametrize("change", [0.0, 1e-7])
def test_a_tied_head_may_be_there_where_it_is_the_same(tmp_path, change, monkeypatch):
    monkeypatch.setattr(tensor_files, "CHUNK", 1000)
    source = write(tmp_path / "tied", {"tie_word_embeddings": True})
    tensors = load_file(source / "model.safetensors")
    assert "lm_head.weight" not in tensors
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["lm_head.weight"][-1, -1] += change
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    if change:
        with pytest.raises(ConvertError, match=r"tensor lm_head\.weight: found other numbers than in model\.embed"):
            convert(source, tmp_path / "herd")
    else:
        assert weights(convert(source, tmp_path / "herd")) == weights(source)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.float64])
@pytest.mark.parametrize("size", [None, "25KB"])
def test_another_dtype_and_other_shards(tmp_path, dtype, size, monkeypatch):
    monkeypatch.setattr(tensor_files, "CHUNK", 1000)  # so that tensors are cut up
    source = write(tmp_path / "llama", {}, max_shard_size="60KB")
    herd = convert(source, tmp_path / "herd", dtype=dtype, max_shard_size=size)
    wanted = getattr(torch, str(dtype).removeprefix("torch."))
    before, after = (AutoModelForCausalLM.from_pretrained(p, dtype="auto").state_dict() for p in (source, herd))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor.to(wanted), after[name]) for name, tensor in before.items())
    assert fields_of(herd)["dtype"] == str(wanted).removeprefix("torch.")
    index = json.loads((herd / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in after.values())
    assert set(index["weight_map"].values()) == {path.name for path in herd.glob("*.safetensors")}
    for path in herd.glob("*.safetensors"):
        with safe_open(path, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            assert {index["weight_map"][name] for name in opened.keys()} == {path.name}  # noqa: SIM118
            sizes = [opened.get_tensor(name).nbytes for name in opened.keys()]  # noqa: SIM118
        assert size is None or sum(sizes) <= 25_000 or len(sizes) == 1


def test_shards_may_become_one_file(tmp_path):
    source = write(tmp_path / "llama", {}, max_shard_size="30KB")
    herd = convert(source, tmp_path / "herd", max_shard_size=10**9)
    assert {path.name for path in herd.glob("model*")} == {"model.safetensors"}
    torch.testing.assert_close(logits(herd), logits(source), atol=1e-5, rtol=0)


def test_unchanged_shards_may_be_links(tmp_path):
    source = write(tmp_path / "llama", {}, max_shard_size="30KB")
    herd = convert(source, tmp_path / "herd", link=True)
    assert all(path.resolve().parent == source for path in herd.glob("*.safetensors"))
    torch.testing.assert_close(logits(herd), logits(source), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "wanted"), [(5, 5), ("5GB", 5 * 10**9), ("1.5 mb", 1_500_000), ("7B", 7), ("8", 8)])
def test_sizes(size, wanted):
    assert parse_size(size) == wanted


MEASURE = """
import json, sys
from llama_align.models.convert import convert
def status(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024
for source, output, options in json.loads(sys.argv[1]):
    open("/proc/self/clear_refs", "w").write("5")  # sets the peak back to the present
    before = status("VmRSS")
    convert(source, output, **options)
    print("grew by", status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of a process's memory")
def test_memory_stays_below_two_shards(tmp_path):
    large = {"vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 5}
    source = write(tmp_path / "llama", large, max_shard_size="54MB")
    shards = [path.stat().st_size for path in source.glob("*.safetensors")]
    assert len(shards) == 8
    assert sum(shards) > 400e6
    ways = [{}, {"dtype": "bfloat16"}, {"dtype": "bfloat16", "max_shard_size": "90MB"}, {"max_shard_size": "1GB"}]
    work = [(str(source), str(tmp_path / f"{i}"), options) for i, options in enumerate(ways)]
    work.append((work[-1][1], str(tmp_path / "from one file"), {"dtype": "float16"}))
    command = [sys.executable, "-c", MEASURE, json.dumps(work)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    grown = [int(line.split()[-1]) for line in said.splitlines() if line.startswith("grew by")]
    assert len(grown) == len(work)
    assert max(grown) < 2 * max(shards), grown
