"""What a conversion refuses, before and while it writes, and what it leaves on disk then."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_align import LlamaHerdForCausalLM
from llama_align.models import convert as convert_module
from llama_align.models.convert import convert
from llama_align.models.tensor_files import ConvertError

ONE = "model.safetensors"


@pytest.fixture
def herd(tmp_path, tiny_config) -> Path:
    torch.manual_seed(0)
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path / "herd")
    return tmp_path / "herd"


@pytest.fixture
def sharded(tmp_path, tiny_config) -> Path:
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    return tmp_path / "sharded"


def set_fields(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(source: Path, message: str, output: Path | None = None, **options) -> str:
    """The message of a conversion that is refused and leaves everything as it was."""
    parent = source.parent
    before = {path: path.lstat().st_mtime_ns for path in parent.rglob("*")}
    with pytest.raises(ConvertError, match=message) as caught:
        convert(source, output or parent / "output", **options)
    assert {path: path.lstat().st_mtime_ns for path in parent.rglob("*")} == before
    return str(caught.value)


def test_missing_unexpected_and_misshapen_tensors_are_all_named(herd):
    tensors = load_file(herd / ONE)
    del tensors["model.norm.weight"]
    tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 32)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(48, 32, dtype=torch.int8)
    save_file(tensors, herd / ONE, metadata={"format": "pt"})
    said = refused(herd, "found other tensors than its config.json calls for")
    assert said.splitlines()[1:] == [
        "missing (1):",
        "  model.norm.weight",
        "unexpected (1):",
        "  model.layers.7.mlp.up_proj.weight in model.safetensors",
        "misshapen (1):",
        "  model.layers.0.mlp.up_proj.weight in model.safetensors: found [3, 32], expected [48, 32]",
        "of another dtype (1):",
        "  model.layers.1.mlp.up_proj.weight in model.safetensors: found I8, expected F64 or F32 or F16 or BF16",
    ]


def test_a_long_list_is_cut(herd):
    set_fields(herd, num_hidden_layers=9)
    assert "missing (63):" in (said := refused(herd, "calls for"))
    assert said.splitlines()[-1] == "  and 43 more"


def test_an_untied_head_must_be_there(herd, tiny_config):
    LlamaHerdForCausalLM(tiny_config(tie_word_embeddings=True)).save_pretrained(herd)
    set_fields(herd, tie_word_embeddings=False)
    refused(herd, r"missing \(1\):\n  lm_head\.weight$")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "mistral"},
            r"config\.json, field 'model_type': found 'mistral', expected 'llama' or 'llama_herd'",
        ),
        (
            {"architectures": ["LlamaForQuestionAnswering"]},
            r"found \['LlamaForQuestionAnswering'\], expected one of Ll",
        ),
        ({"quantization_config": {"quant_method": "gptq"}}, "field 'quantization_config': found one, expected weights"),
        ({"rope_parameters": {"rope_type": "spiral"}}, r"config\.json: found fields that make no Llama: .*spiral"),
        ({"vocab_size": "many"}, r"config\.json: found fields that make no Llama: .*many"),
        ({"hidden_act": "square"}, r"config\.json: found fields that make no Llama: .*square"),
    ],
)
def test_other_configurations_are_refused(herd, fields, message):
    set_fields(herd, **fields)
    refused(herd, f"(?s){message}")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "pytorch_model.bin",
            r"pytorch_model\.bin: found weights in a pickle.*expected model\.safetensors.*save_pre",
        ),
        ("consolidated.00.pth", r"consolidated\.00\.pth: found Meta's own form.*convert_llama_weights_to_hf"),
        (None, r"found no weights, expected model\.safetensors or model\.safetensors\.index\.json"),
    ],
)
def test_pickles_are_refused(herd, file, message):
    (herd / ONE).unlink()
    if file:
        (herd / file).write_bytes(b"\x80\x04")
    refused(herd, message)


def test_folders_without_a_configuration_are_refused(herd, tmp_path):
    (herd / "config.json").rename(herd / "params.json")
    refused(herd, r"found no config\.json \(params\.json is that of Meta's own form\), expected a checkpoint")
    refused(tmp_path / "absent", "absent: found no such folder, expected a checkpoint's")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_configurations_are_refused(herd, text):
    (herd / "config.json").write_text(text)
    refused(herd, r"config\.json: (not valid JSON|found list, expected an object)")


def test_broken_shards_are_refused(sharded):
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    file = sorted(set(index["weight_map"].values()))[1]
    whole = (sharded / file).read_bytes()
    (sharded / file).write_bytes(whole[:-8])
    refused(sharded, rf"{file}: found no whole safetensors file")
    (sharded / file).unlink()
    refused(sharded, rf"{file}: found no such file, expected the shard that model\.safetensors\.index\.json names")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda places: places.pop("model.norm.weight"),
            r"found tensor model\.norm\.weight, expected it in no file",
        ),
        (
            lambda places: places.update({"model.norm.weight": places["model.embed_tokens.weight"]}),
            r"found tensor model\.norm\.weight, expected it in model-0000\d",
        ),
        (lambda places: places.update(more=places["model.norm.weight"]), "found no tensor more, which model.safetens"),
        (lambda places: places.update(more="../model.safetensors"), "found '../model.safetensors', expected the name"),
        (lambda places: places.update(more=["a"]), r"index\.json, tensor more: found \['a'\], expected the name"),
        (lambda places: places.update(more=3), r"index\.json, tensor more: found 3, expected the name"),
    ],
)
def test_an_index_that_says_otherwise_is_refused(sharded, change, message):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))
    refused(sharded, message)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": []}', "[]"])
def test_an_index_that_says_nothing_is_refused(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    refused(sharded, r"index\.json: (not valid JSON|found no field 'weight_map'|found list, expected an object)")


def test_metadata_of_an_index_that_is_none_is_refused(sharded):
    path = sharded / "model.safetensors.index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": None}))
    refused(sharded, r"index\.json, field 'metadata': found None, expected an object")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_tokenizer_configuration_is_found_before_weights_are_written(herd, text):
    (herd / "tokenizer_config.json").write_text(text)
    refused(herd, r"tokenizer_config\.json: (not valid JSON|found list, expected an object)")


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.model", "additional_chat_templates/tools.jinja"])
def test_a_link_to_nothing_is_found_before_weights_are_written(herd, name):
    (herd / name).parent.mkdir(exist_ok=True)
    (herd / name).symlink_to("absent")
    refused(herd, f"{name}: found a link to nothing, expected a file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "mistral"}, "to: found 'mistral', expected llama, herd or gguf"),
        ({"dtype": "int8"}, "dtype: found 'int8', expected one of float64, float32, float16, bfloat16"),
        ({"max_shard_size": "5 apples"}, "max_shard_size: found '5 apples', expected a size such as 5GB"),
        ({"max_shard_size": 0}, "max_shard_size: found 0, expected"),
    ],
)
def test_options_that_do_not_fit_are_refused(herd, options, message):
    refused(herd, message, **options)


def test_only_another_checkpoint_is_replaced_and_only_when_asked(herd, tmp_path):
    output = convert(herd, tmp_path / "output")
    refused(herd, "output: found that it exists, expected a new folder; --overwrite replaces a checkpoint")
    (output / "NOTICE.txt").touch()
    convert(herd, output, dtype="bfloat16", overwrite=True)
    assert not (output / "NOTICE.txt").exists()
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    assert {path.name for path in tmp_path.iterdir()} == {"herd", "output"}
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_a_friend.txt").touch()
    refused(herd, "letters: found no checkpoint there", tmp_path / "letters", overwrite=True)
    (tmp_path / "link").symlink_to(output)
    refused(herd, "link: found no checkpoint there", tmp_path / "link", overwrite=True)
    refused(herd, "to_a_friend.txt: found no checkpoint", tmp_path / "letters" / "to_a_friend.txt", overwrite=True)


@pytest.mark.parametrize("place", [".", "../herd", "inside", "..", "../link"])
def test_the_source_is_never_the_output(herd, place):
    (herd.parent / "link").symlink_to(herd)
    refused(herd, "expected a folder apart from the source", herd / place, overwrite=True)


def test_numbers_beyond_a_dtype_leave_nothing_behind(herd, tmp_path):
    tensors = load_file(herd / ONE)
    tensors["model.norm.weight"][3] = -1e5
    save_file(tensors, herd / ONE, metadata={"format": "pt"})
    refused(herd, r"model\.norm\.weight: found numbers up to 1e\+05, expected at most 6\.55e\+04", dtype="float16")
    assert {path.name for path in tmp_path.iterdir()} == {"herd"}


def test_a_failure_at_the_end_leaves_what_was_there(herd, tmp_path, monkeypatch):
    output = convert(herd, tmp_path / "output")
    monkeypatch.setattr(convert_module, "_carry", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        convert(herd, output, dtype="bfloat16", overwrite=True)
    assert json.loads((output / "config.json").read_text())["dtype"] == "float32"
    assert {path.name for path in tmp_path.iterdir()} == {"herd", "output"}


def test_a_process_that_dies_leaves_no_checkpoint_and_the_next_one_goes_through(herd, tmp_path):
    code = """
import os, sys
from llama_align.models import convert as module
module._carry = lambda *_: os._exit(9)
module.convert(sys.argv[1], sys.argv[2])
"""
    output = tmp_path / "output"
    command = [sys.executable, "-c", code, str(herd), str(output)]
    assert subprocess.run(command, env=os.environ, capture_output=True).returncode == 9
    assert not output.exists()
    (left,) = (path for path in tmp_path.iterdir() if path.name != "herd")
    assert left.name.startswith(".output.")
    assert not list(left.rglob("config.json"))
    convert(herd, output)
    assert {path.name for path in tmp_path.iterdir()} == {"herd", "output", left.name}
