"""Tiny checkpoints with something wrong in them, through the check, the loaders and a forward pass."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llama_align import LlamaHerdConfig, recipe
from llama_align.chat import train_tokenizer

from ..conftest import made_up_text
from .trial import OTHER, SAME, Trial, changed_bytes

INDEX = "model.safetensors.index.json"
KINDS = {"model": "causal", "sharded": "causal", "tied": "causal", "reward": "reward", "adapter": "causal"}
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "a negative number": -3,
    "another number": 8,
    "a huge number": 10**12,
    "an endless number": 10**400,
    "a fraction": 0.37,
    "nan": float("nan"),
    "text": "zoqui",
    "a list": [],
    "a list of things": [1, "a", None],
    "an object": {"a": 1},
}
UNSEEN = "nothing in the weights says what it should be"
UNUSED = "read by nothing that trains, samples or scores"
ACCEPTED = {
    "weights: a flipped bit": "no checksum stands beside the numbers",
    "*.safetensors bytes flipped": "no checksum stands beside the numbers",
    "config.json max_position_embeddings: *": UNSEEN,
    "config.json rms_norm_eps: *": UNSEEN,
    "config.json rope_*: *": UNSEEN,
    "config.json hidden_act: *": UNSEEN,
    "config.json attention_dropout: *": UNSEEN,
    "config.json bytes *": UNSEEN,
    "config.json *_token_id: *": "any token may end or begin a text, or none; a mismatch with the tokenizer is refused",
    "adapter_config.json lora_alpha: *": UNSEEN,
    "adapter_config.json use_rslora: *": UNSEEN,
    "adapter_config.json alpha_pattern: *": UNSEEN,
    "adapter_config.json bytes *": UNSEEN,
    "tokenizer*.json *": "another tokenizer, whole and with the control tokens",
    "generation_config.json *": "recipes say themselves how they sample",
    "weights: a square one turned": "no shape says which way round it is",
    "weights: half precision": "a checkpoint may be of any floating-point type",
}


def originals(folder: Path) -> Path:
    """Whole checkpoints to change."""
    texts = [made_up_text(40, seed) for seed in range(20)]
    train_tokenizer(texts, 400).save_pretrained(folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2}
    torch.manual_seed(0)
    for name, auto, changes, largest in (
        ("model", AutoModelForCausalLM, {}, "5GB"),
        ("sharded", AutoModelForCausalLM, {}, "40KB"),
        ("tied", AutoModelForCausalLM, {"tie_word_embeddings": True}, "5GB"),
        ("reward", AutoModelForSequenceClassification, {"num_labels": 1}, "5GB"),
    ):
        config = LlamaHerdConfig(vocab_size=len(tokenizer), **sizes, **more, **ids, **changes)
        auto.from_config(config).save_pretrained(folder / name, max_shard_size=largest)
        tokenizer.save_pretrained(folder / name)
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(base, lora).save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    return folder


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    draw = random.Random(f"checkpoints/{seed}")
    whole = originals(folder / "originals")
    expected = {name: _read(whole / name, kind) for name, kind in KINDS.items()}
    for _ in range(count):
        name = draw.choice([*KINDS])
        path = folder / "changed"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(whole / name, path)
        change = draw.choice([_json_field] * 6 + [_bytes] * 3 + [_tensors] * 4 + [_file] * 2 + [_index] * 2)
        kind, shown = change(draw, path)
        yield Trial(kind, _reading(path, KINDS[name], expected[name]), f"{name} {shown}")


def _reading(path: Path, kind: str, expected: torch.Tensor):
    def run() -> str:
        found = _read(path, kind)
        return SAME if found.shape == expected.shape and torch.equal(found, expected) else OTHER

    return run


def _read(path: Path, kind: str) -> torch.Tensor:
    """What the model says of a text, read as a recipe does it."""
    recipe.check_checkpoint(str(path), kind, new_head=False)
    tokenizer = recipe.load_tokenizer(str(path))
    model = recipe.load_model(str(path), kind, tokenizer, new_head=False).eval()
    ids = torch.tensor([tokenizer("bado kilu mete nora")["input_ids"]])
    with torch.no_grad():
        return model(ids).logits


def _files(path: Path, *suffixes: str) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.name.endswith(suffixes) and p.name != "README.md")


def _json_field(draw: random.Random, path: Path) -> tuple[str, str]:
    files = [p for p in _files(path, ".json") if p.name != INDEX]
    configs = [p for p in files if p.name in ("config.json", "adapter_config.json")]
    file = draw.choice(files + configs * 6)
    content = json.loads(file.read_text())
    field = draw.choice([*content])
    if draw.random() < 0.2:
        del content[field]
        how = "removed"
    else:
        how, content[field] = draw.choice([*VALUES.items()])
    file.write_text(json.dumps(content))
    return f"{file.name} {field}: {how}", ""


def _bytes(draw: random.Random, path: Path) -> tuple[str, str]:
    file = draw.choice(_files(path, ".json", ".safetensors"))
    content = file.read_bytes()
    if file.suffix == ".safetensors" and draw.random() < 0.6:  # the header, which is small
        end = 8 + int.from_bytes(content[:8], "little")
        how, head = changed_bytes(draw, content[:end])
        kind = f"{file.suffix} header {how}"
        file.write_bytes(head + content[end:])
        return f"header bytes {how}", kind
    how, changed = changed_bytes(draw, content)
    file.write_bytes(changed)
    name = "*.safetensors" if file.suffix == ".safetensors" else file.name
    return f"{name.replace('*', 'model')} bytes {how}", file.name


def _tensors(draw: random.Random, path: Path) -> tuple[str, str]:
    file = draw.choice(_files(path, ".safetensors"))
    content = load_file(file)
    name = draw.choice([*content])
    tensor = content[name]
    how = draw.choice(
        [
            "removed",
            "renamed",
            "turned",
            "longer",
            "integers",
            "booleans",
            "half precision",
            "empty",
            "one more",
            "flat",
        ]
    )
    if how == "removed":
        del content[name]
    elif how == "renamed":
        content[name.replace("layers.0", "layers.7") + draw.choice(["", "_"])] = content.pop(name)
    elif how == "half precision":
        content = {key: value.to(torch.bfloat16) for key, value in content.items()}
    else:
        content[f"{name}.more" if how == "one more" else name] = {
            "turned": tensor.T if tensor.dim() == 2 else tensor.reshape(1, -1),
            "longer": torch.cat([tensor, tensor]),
            "integers": tensor.to(torch.int8),
            "booleans": tensor > 0,
            "empty": tensor[:0],
            "one more": tensor,
            "flat": tensor.flatten() if tensor.dim() == 2 else tensor[None],
        }[how].clone()
    if how == "turned" and tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1]:
        how = "a square one turned"
    save_file({key: value.contiguous() for key, value in content.items()}, file, metadata={"format": "pt"})
    return f"weights: {how}", name


def _file(draw: random.Random, path: Path) -> tuple[str, str]:
    file = draw.choice(_files(path, ".json", ".safetensors", ".jinja"))
    how = draw.choice(["removed", "empty", "a folder", "a link to nothing", "a link to itself", "noise", "other JSON"])
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how == "a link to nothing":
        file.symlink_to(path / "nowhere")
    elif how == "a link to itself":
        file.symlink_to(file)
    elif how in ("empty", "noise", "other JSON"):
        json_text = draw.choice(["[]", "null", "5", '"a"', "{}", "[" * 3000, '{"a": ' * 200 + "1" + "}" * 200])
        file.write_bytes({"empty": b"", "noise": draw.randbytes(200), "other JSON": json_text.encode()}[how])
    return f"{file.name if file.suffix != '.safetensors' else 'shard'} {how}", file.name


def _index(draw: random.Random, path: Path) -> tuple[str, str]:
    if not (path / INDEX).is_file():
        return _tensors(draw, path)
    index = json.loads((path / INDEX).read_text())
    places = index["weight_map"]
    name = draw.choice([*places])
    how = draw.choice(
        ["outside", "absolute", "a number", "another shard", "a tensor of nothing", "one fewer", "no places"]
    )
    if how == "no places":
        index["weight_map"] = draw.choice([None, [], 5, "a", {}])
    elif how == "one fewer":
        del places[name]
    elif how == "a tensor of nothing":
        places["model.more.weight"] = places[name]
    else:
        others = sorted({*places.values()} - {places[name]})
        places[name] = {
            "outside": f"../originals/sharded/{places[name]}",
            "absolute": str((path / places[name]).resolve()),
            "a number": 5,
            "another shard": draw.choice(others),
        }[how]
    (path / INDEX).write_text(json.dumps(index))
    return f"index: {how}", name
