"""Checkpoints that are not whole, or not what they say: refused by file and field before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from llama_align import recipe
from llama_align.models import preset

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def originals(tmp_path_factory, tiny_config, tokenizer):
    """Whole checkpoints of every kind: one file, shards, reward and value models, an adapter."""
    folder = tmp_path_factory.mktemp("originals")
    torch.manual_seed(0)
    for name, auto, changes, size in (
        ("model", AutoModelForCausalLM, {}, "5GB"),
        ("sharded", AutoModelForCausalLM, {}, "40KB"),
        ("tied", AutoModelForCausalLM, {"tie_word_embeddings": True}, "5GB"),
        ("reward", AutoModelForSequenceClassification, {"num_labels": 1}, "5GB"),
        ("value", AutoModelForTokenClassification, {"num_labels": 1}, "5GB"),
    ):
        auto.from_config(tiny_config(**changes)).save_pretrained(folder / name, max_shard_size=size)
        tokenizer.save_pretrained(folder / name)
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def copy(originals, tmp_path):
    def make(name: str) -> Path:
        shutil.copytree(originals / name, tmp_path / name)
        return tmp_path / name

    return make


def fields(path: Path, **changes) -> None:
    """Changes fields of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_whole_checkpoints_pass(originals):
    for name, kind, new_head in (
        *((name, "causal", True) for name in ("model", "sharded", "tied", "adapter")),
        *((name, None, True) for name in ("model", "sharded", "tied", "reward", "value", "adapter")),
        *(("reward", kind, False) for kind in ("reward", "value")),
        *((name, "reward", True) for name in ("model", "tied", "adapter")),
    ):
        recipe.check_checkpoint(str(originals / name), kind, new_head)


def test_a_name_on_the_hub_and_links_pass(originals, tmp_path):
    recipe.check_checkpoint("somebody/a-model", "causal")
    (tmp_path / "snapshot").mkdir()
    for file in (originals / "model").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    recipe.check_checkpoint(str(tmp_path / "snapshot"), "causal")


CONFIGS = [
    ({"hidden_size": "32"}, "field 'hidden_size': found '32', expected a whole number"),
    ({"hidden_size": None}, "field 'hidden_size': found nothing, expected a whole number"),
    ({"vocab_size": -1}, "field 'vocab_size': found -1, expected a number of at least 1 and at most 67108864"),
    ({"hidden_size": 10**15}, "field 'hidden_size': found 1000000000000000, expected"),
    ({"num_hidden_layers": 10**9}, "field 'num_hidden_layers': found 1000000000, expected"),
    ({"num_hidden_layers": 3}, "field 'num_hidden_layers': found 3, expected 2, as many as its weights have"),
    ({"num_hidden_layers": 1}, "field 'num_hidden_layers': found 1, expected 2, as many as its weights have"),
    ({"num_hidden_layers": True}, "field 'num_hidden_layers': found true, expected a whole number"),
    ({"num_attention_heads": 3}, "field 'num_key_value_heads': found 2, expected a divisor of 3 heads"),
    ({"num_attention_heads": 0}, "field 'num_attention_heads': found 0, expected a number of at least 1"),
    ({"num_key_value_heads": 3}, "field 'num_key_value_heads': found 3, expected a divisor of 4 heads"),
    ({"max_position_embeddings": None}, "field 'max_position_embeddings': found nothing, expected"),
    ({"max_position_embeddings": 1e9}, "field 'max_position_embeddings': found 1000000000.0, expected a whole number"),
    ({"rms_norm_eps": "small"}, "field 'rms_norm_eps': found 'small', expected a number"),
    ({"rms_norm_eps": float("nan")}, "field 'rms_norm_eps': found nan, expected a number"),
    ({"tie_word_embeddings": "yes"}, "field 'tie_word_embeddings': found 'yes', expected true or false"),
    ({"eos_token_id": [1, "2"]}, "field 'eos_token_id[1]': found '2', expected a whole number"),
    ({"pad_token_id": 400}, "field 'pad_token_id': found 400, expected a number of at least -1 and at most 399"),
    ({"rope_parameters": 5}, "field 'rope_parameters': found 5, expected a mapping"),
    ({"dtype": "floaty"}, "field 'dtype': found 'floaty', expected one of float64, float32, float16, bfloat16"),
    ({"model_type": "llame"}, "field 'model_type': found 'llame', expected one that transformers knows"),
    ({"model_type": 5}, "field 'model_type': found 5, expected one that transformers knows"),
    ({"hidden_act": "swosh"}, "found fields that make no Llama"),
]


@pytest.mark.parametrize(("changes", "said"), CONFIGS)
def test_a_configuration_that_cannot_be(copy, changes, said):
    path = copy("model")
    fields(path / "config.json", **changes)
    with pytest.raises(recipe.RecipeError) as error:
        recipe.check_checkpoint(str(path), "causal")
    assert str(error.value).startswith(str(path / "config.json"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "tensor", "names"),
    [
        ({"vocab_size": 500}, "lm_head.weight", "vocab_size, hidden_size"),
        ({"hidden_size": 64}, "lm_head.weight", "vocab_size, hidden_size"),
        ({"intermediate_size": 64}, "mlp.", "intermediate_size, hidden_size"),
        ({"num_key_value_heads": 4}, "self_attn.k_proj", "num_key_value_heads, head_dim, hidden_size"),
        ({"head_dim": 16}, "self_attn.q_proj", "num_attention_heads, head_dim, hidden_size"),
    ],
)
def test_shapes_that_are_not_those_of_the_configuration(copy, changes, tensor, names):
    path = copy("model")
    fields(path / "config.json", **changes)
    with pytest.raises(recipe.RecipeError, match=f"{path}: tensor .*: found .*, expected .* by {names} in config.json"):
        recipe.check_checkpoint(str(path), "causal")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", "[" * 10000, '{"hidden_size": ' + "9" * 5000 + "}", b"\xff{}"]
)
@pytest.mark.parametrize("name", ["config.json", INDEX, "tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_none(copy, name, text):
    path = copy("sharded")
    (path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(recipe.RecipeError, match=f"^{path / name}: (not valid JSON|found (list|NoneType), expected)"):
        recipe.check_checkpoint(str(path), "causal")


def test_a_tokenizer_that_is_none(copy):
    path = copy("model")
    fields(path / "tokenizer.json", model={"type": "BPE", "vocab": {"a": "b"}, "merges": []})
    with pytest.raises(recipe.RecipeError, match=f"^{path / 'tokenizer.json'}: found what makes no tokenizer"):
        recipe.check_checkpoint(str(path), "causal")
    with pytest.raises(recipe.RecipeError, match=f"^{path / 'tokenizer.json'}: found what makes no tokenizer"):
        recipe.load_tokenizer(str(path))


@pytest.mark.parametrize("place", [0, 4, 8, 100, 4000, -1])
@pytest.mark.parametrize("name", ["model", "reward", "adapter"])
def test_a_file_of_weights_that_was_cut(copy, originals, name, place):
    path = copy(name)
    file = path / ("adapter_model.safetensors" if name == "adapter" else SINGLE)
    file.write_bytes(file.read_bytes()[:place])
    with pytest.raises(recipe.RecipeError, match=f"^{file}: found no whole safetensors file"):
        recipe.check_checkpoint(str(path))


def test_a_shard_that_was_cut_or_is_gone(copy):
    path = copy("sharded")
    shard = sorted(path.glob("*.safetensors"))[-1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(recipe.RecipeError, match=f"^{shard}: found no whole safetensors file"):
        recipe.check_checkpoint(str(path))
    shard.unlink()
    with pytest.raises(recipe.RecipeError, match=f"^{shard}: found no such file, expected the shard"):
        recipe.check_checkpoint(str(path))


@pytest.mark.parametrize("file", ["../outside/model.safetensors", "/etc/passwd", 5, None, ["a"], "..", ""])
def test_an_index_that_names_something_else(copy, originals, file):
    path = copy("sharded")
    index = json.loads((path / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = file
    (path / INDEX).write_text(json.dumps(index))
    with pytest.raises(recipe.RecipeError, match=f"^{path}.*found .*, expected .*(file|shard)"):
        recipe.check_checkpoint(str(path))


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        (None, "found no field 'weight_map'"),
        ([], "found no field 'weight_map'"),
        ({"model.more.weight": "model-00001-of-00001.safetensors"}, "expected"),
    ],
)
def test_an_index_of_other_tensors(copy, weight_map, said):
    path = copy("sharded")
    fields(path / INDEX, weight_map=weight_map)
    with pytest.raises(recipe.RecipeError, match=f"^{path}.*{said}"):
        recipe.check_checkpoint(str(path))


def test_tensors_of_integers_missing_or_of_another_model(copy):
    path = copy("model")
    norm, whole = "model.norm.weight", load_file(path / SINGLE)
    for changes, said in (
        ({norm: torch.ones(32, dtype=torch.int8)}, f"{path / SINGLE}, tensor '{norm}': found I8, expected one of F64"),
        ({norm: None}, f"{path}: found no tensor {norm}, expected it by hidden_size in config.json"),
        ({"model.more.weight": torch.ones(1)}, f"{path}: found tensor model.more.weight in {SINGLE}, expected none"),
        ({"lm_head.weight": None}, f"{path}: found no tensor lm_head.weight, expected it by vocab_size, hidden_size"),
    ):
        content = {name: tensor for name, tensor in (whole | changes).items() if tensor is not None}
        save_file(content, path / SINGLE, metadata={"format": "pt"})
        with pytest.raises(recipe.RecipeError) as error:
            recipe.check_checkpoint(str(path), "causal")
        assert str(error.value).startswith(said)


def test_a_tied_head_with_numbers_of_its_own(copy):
    path = copy("model")
    fields(path / "config.json", tie_word_embeddings=True)
    with pytest.raises(recipe.RecipeError, match=r"tensor lm_head.weight: found other numbers than in model.embed_tok"):
        recipe.check_checkpoint(str(path), "causal")


def test_models_of_another_kind(originals, copy):
    with pytest.raises(
        recipe.RecipeError, match=r"model: found no score.weight among its weights, expected those of a"
    ):
        recipe.check_checkpoint(str(originals / "model"), "reward", new_head=False)
    with pytest.raises(recipe.RecipeError, match=r"found no tensor lm_head.weight"):
        recipe.check_checkpoint(str(originals / "reward"), "causal")
    path = copy("reward")
    fields(path / "config.json", tie_word_embeddings=True)  # which a language model would do without a head of its own
    with pytest.raises(recipe.RecipeError, match=r"found score.weight, of a reward model, expected a language model"):
        recipe.check_checkpoint(str(path), "causal")
    content = load_file(path / SINGLE)
    for score, said in ((torch.ones(1, 16), r"found \[1, 16\], expected"), (torch.ones(3, 32), "found 3 outputs")):
        save_file(content | {"score.weight": score}, path / SINGLE, metadata={"format": "pt"})
        with pytest.raises(recipe.RecipeError, match=f"tensor 'score.weight': {said}"):
            recipe.check_checkpoint(str(path), "reward")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": None}, "field 'base_model_name_or_path': found nothing, expected text"),
        ({"base_model_name_or_path": 5}, "field 'base_model_name_or_path': found 5, expected text"),
        ({"base_model_name_or_path": "/nowhere"}, "found '/nowhere', which is no folder, expected the model it was"),
        ({"r": 8}, r"found \[4, \d+\], expected rank 8, as r in adapter_config.json says"),
        ({"r": 0}, "field 'r': found 0, expected a number of at least 1"),
        ({"r": "4"}, "field 'r': found '4', expected a whole number"),
        ({"lora_alpha": float("nan")}, "field 'lora_alpha': found nan, expected a number"),
        ({"lora_dropout": 2}, "field 'lora_dropout': found 2, expected a number of at least 0 and at most 1"),
        ({"peft_type": None}, "field 'peft_type': found nothing, expected text"),
        ({"alora_invocation_tokens": 5}, "field 'alora_invocation_tokens': found 5, expected a list of whole numbers"),
        ({"lora_alpha": 10**400}, "field 'lora_alpha': found 1000"),
        ({"alpha_pattern": {"q_proj": "a"}}, "field 'alpha_pattern.q_proj': found 'a', expected a number"),
        ({"rank_pattern": {"q_proj": 2}}, r"q_proj.lora_A.weight': found \[4, 32\], expected rank 2"),
    ],
)
def test_an_adapter_that_does_not_fit(copy, changes, said):
    path = copy("adapter")
    fields(path / "adapter_config.json", **changes)
    with pytest.raises(recipe.RecipeError, match=f"^{path}.*{said}"):
        recipe.check_checkpoint(str(path), "causal")


def test_an_adapter_on_itself_or_on_another_model(copy, originals, tmp_path, tiny_config):
    path = copy("adapter")
    fields(path / "adapter_config.json", base_model_name_or_path=str(path))
    with pytest.raises(recipe.RecipeError, match="found an adapter that stands on itself, expected a whole"):
        recipe.check_checkpoint(str(path))
    AutoModelForCausalLM.from_config(tiny_config(intermediate_size=64)).save_pretrained(tmp_path / "wide")
    fields(path / "adapter_config.json", base_model_name_or_path=str(tmp_path / "wide"))
    with pytest.raises(
        recipe.RecipeError, match=r"mlp.*found \[.*\], expected a matrix for \[.*\], the weight of its ba"
    ):
        recipe.check_checkpoint(str(path))
    base = copy("model")
    (base / SINGLE).write_bytes((base / SINGLE).read_bytes()[:-1])
    fields(path / "adapter_config.json", base_model_name_or_path=str(base))
    with pytest.raises(recipe.RecipeError, match=f"^{base / SINGLE}: found no whole safetensors file"):
        recipe.check_checkpoint(str(path))


@pytest.mark.parametrize("path", [None, "", 5, "/nowhere/at/all", "./" + "x" * 300])
def test_a_path_of_no_checkpoint(path):
    with pytest.raises(recipe.RecipeError, match=r"found .*, expected (a|the folder of a) checkpoint"):
        recipe.check_checkpoint(path)


def test_headers_alone_are_read(copy):
    """The data of a tensor may be anything: nothing of it is loaded."""
    path = copy("model")
    with (path / SINGLE).open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\xff" * 1000)
    recipe.check_checkpoint(str(path), "causal")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"hidden_siz": 64}, "field 'hidden_siz': unknown, expected a field of a LlamaHerd's configuration"),
        ({"hidden_size": -1}, "field 'hidden_size': found -1, expected a number of at least 1"),
        ({"hidden_size": "64"}, "field 'hidden_size': found '64', expected a whole number"),
        ({"num_hidden_layers": 10**9}, "field 'num_hidden_layers': found 1000000000, expected"),
        ({"rope_parameters": [1]}, "field 'rope_parameters': found a list of 1, expected a mapping"),
    ],
)
def test_overrides_of_a_size_that_no_model_has(overrides, said):
    with pytest.raises(recipe.RecipeError) as error:
        recipe.check_overrides(overrides, "size_overrides")
    assert str(error.value).startswith(f"size_overrides, {said}")
    recipe.check_overrides({"num_hidden_layers": 2, "rope_parameters": {"rope_theta": 1e5}}, "size_overrides")


def test_a_size_of_fields_that_do_not_go_together_is_a_value_error():
    with pytest.raises(ValueError, match=r"model size 'herd-nano' with .*: found 3 heads in 2 groups"):
        preset("herd-nano", num_attention_heads=3)


def test_patterns_of_an_adapter_that_are_null(copy):
    for name in ("rank_pattern", "alpha_pattern"):
        path = copy("adapter")
        file = path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: None}))
        with pytest.raises(recipe.RecipeError, match=f"^{file}, field '{name}': found nothing, expected a mapping"):
            recipe.check_checkpoint(str(path), "causal")
        shutil.rmtree(path)
