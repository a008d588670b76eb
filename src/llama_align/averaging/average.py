"""The weighted mean of checkpoints of one architecture, tensor by tensor from safetensors."""

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..models.forms import MODEL_TYPES, full_config
from ..models.tensor_files import BESIDE, INDEX, Tensor, read_headers, read_object

# fields of a configuration that change no score of a token
NOT_COMPUTED = (
    *("_name_or_path", "architectures", "auto_map", "model_type", "transformers_version", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "initializer_range", "pretraining_tp"),
    *("id2label", "label2id", "problem_type", "token_classification_bias"),
    *("return_dict", "output_attentions", "output_hidden_states"),
)


def average_checkpoints(
    paths: Sequence[str | Path], output_dir: str | Path, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Writes sum_i w_i * theta_i / sum_i w_i, accumulated in float32 (float64 for float64), in the first one's form.

    One tensor of each checkpoint is in memory at a time, besides the shard being written. Configuration and tokenizer
    come from the first checkpoint.

    Returns:
        Each checkpoint's distance from the average, relative to the average's norm, by path.

    Raises:
        ValueError: fewer than one path, weights that do not fit, tensors that differ in name or shape, configurations
            that make other scores of the same tensors (such as `rope_theta`), or tokenizers that make other ids.
    """
    paths = [Path(path) for path in paths]
    weights = list(weights) if weights is not None else [1.0] * len(paths)
    fit = all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
    if not paths or len(weights) != len(paths) or not fit:
        raise ValueError(f"weights: found {weights} for {len(paths)} checkpoints, expected one of at least 0 for each")
    for path in paths:
        if (path / "adapter_config.json").is_file():
            raise ValueError(f"{path}: found an adapter, expected whole weights; recipes/average.py merges it first")
    headers = [read_headers(path) for path in paths]
    _same_tensors(paths, headers)
    _same_fields(paths)
    _same_tokenizers(paths)

    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    difference = torch.zeros(len(paths), dtype=torch.float64)
    norm = 0.0
    for file in sorted({tensor.file for tensor in headers[0].values()}):
        averaged = {}
        for name in (name for name, tensor in headers[0].items() if tensor.file == file):
            tensors = [_tensor(path / own[name].file, name) for path, own in zip(paths, headers, strict=True)]
            mean = _mean(tensors, weights)
            difference += torch.tensor([(t.double() - mean.double()).pow(2).sum().item() for t in tensors])
            norm += mean.double().pow(2).sum().item()
            averaged[name] = mean.to(tensors[0].dtype).contiguous()
        save_file(averaged, output / f"{file}.part", metadata={"format": "pt"})
        os.replace(output / f"{file}.part", output / file)
    for place in paths[0].iterdir():
        if place.is_file() and _travels(place.name):
            shutil.copyfile(place, output / place.name)
    relative = (difference / max(norm, 1e-30)).sqrt().tolist()
    return {str(path): value for path, value in zip(paths, relative, strict=True)}


def _travels(name: str) -> bool:
    # code, too: config.json names it where a checkpoint came with it. A step's config.yaml stays where it is
    return name in (INDEX, "config.json", *BESIDE) or name.endswith(".py")


def _same_tensors(paths: Sequence[Path], headers: Sequence[dict[str, Tensor]]) -> None:
    first = headers[0]
    for path, own in zip(paths[1:], headers[1:], strict=True):
        if odd := sorted(first.keys() ^ own.keys()):
            raise ValueError(f"{path}: tensor {odd[0]!r} is in only one of it and {paths[0]}, expected the same names")
        for name, tensor in own.items():
            if tensor.shape != (wanted := first[name].shape):
                raise ValueError(f"{path}, tensor {name!r}: found shape {tensor.shape}, expected {wanted}")


def _same_fields(paths: Sequence[Path]) -> None:
    if not all((path / "config.json").is_file() for path in paths):
        return
    first, *others = map(_fields, paths)
    for path, fields in zip(paths[1:], others, strict=True):
        for name in sorted(first.keys() | fields.keys()):
            if (found := fields.get(name)) != (wanted := first.get(name)):
                expected = f"expected {wanted!r} as in {paths[0]}"
                raise ValueError(f"{path / 'config.json'}, field {name!r}: found {found!r}, {expected}")


def _fields(path: Path) -> dict:
    """What a configuration computes with; of a Llama or LlamaHerd with all defaults, old names and new ones alike."""
    fields = read_object(path / "config.json")
    form = next((form for form, name in MODEL_TYPES.items() if name == fields.get("model_type")), None)
    if form is not None:
        fields = full_config(path / "config.json", fields, form).to_dict()
    return {name: value for name, value in fields.items() if name not in NOT_COMPUTED}


def _same_tokenizers(paths: Sequence[Path]) -> None:
    """Those that are there; what is cut and padded is said with each call, not in the file."""
    read = {path: read_object(path / "tokenizer.json") for path in paths if (path / "tokenizer.json").is_file()}
    first = next(iter(read), None)
    for path, fields in read.items():
        for name in sorted((fields.keys() | read[first].keys()) - {"truncation", "padding", "version"}):
            if json.dumps(fields.get(name)) != json.dumps(read[first].get(name)):
                expected = f"expected the same as in {first}; ids would mean other words"
                raise ValueError(f"{path / 'tokenizer.json'}, field {name!r}: found another, {expected}")


def _tensor(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(name)


def _mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    precise = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    total = torch.zeros_like(tensors[0], dtype=precise)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.to(precise), alpha=weight)
    return total / sum(weights)  # at the end, so that equal weights sum bfloat16 without rounding
