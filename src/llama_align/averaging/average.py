"""The weighted mean of checkpoints of one architecture, tensor by tensor from safetensors."""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..models.tensor_files import BESIDE, INDEX, read_headers


def average_checkpoints(
    paths: Sequence[str | Path], output_dir: str | Path, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Writes sum_i w_i * theta_i / sum_i w_i, accumulated in float32 (float64 for float64), in the first one's form.

    One tensor of each checkpoint is in memory at a time, besides the shard being written. Configuration and tokenizer
    come from the first checkpoint.

    Returns:
        Each checkpoint's distance from the average, relative to the average's norm, by path.

    Raises:
        ValueError: fewer than one path, weights that do not fit, or tensors that differ in name or shape.
    """
    paths = [Path(path) for path in paths]
    weights = list(weights) if weights is not None else [1.0] * len(paths)
    fit = all(0 <= weight < math.inf for weight in weights) and sum(weights) > 0
    if not paths or len(weights) != len(paths) or not fit:
        raise ValueError(f"weights: found {weights} for {len(paths)} checkpoints, expected one of at least 0 for each")
    for path in paths:
        if (path / "adapter_config.json").is_file():
            raise ValueError(f"{path}: found an adapter, expected whole weights; recipes/average.py merges it first")
    shards = [{name: tensor.file for name, tensor in read_headers(path).items()} for path in paths]
    _same_tensors(paths, shards)

    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    difference = torch.zeros(len(paths), dtype=torch.float64)
    norm = 0.0
    for file in sorted(set(shards[0].values())):
        averaged = {}
        for name in (name for name, place in shards[0].items() if place == file):
            tensors = list(_tensors(paths, shards, name))
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


def _same_tensors(paths: Sequence[Path], shards: Sequence[dict[str, str]]) -> None:
    for path, shard in zip(paths[1:], shards[1:], strict=True):
        odd = sorted(set(shards[0]) ^ set(shard))
        if odd:
            raise ValueError(f"{path}: tensor {odd[0]!r} is in only one of it and {paths[0]}, expected the same names")


def _tensors(paths: Sequence[Path], shards: Sequence[dict[str, str]], name: str) -> Iterator[torch.Tensor]:
    shape = None
    for path, shard in zip(paths, shards, strict=True):
        with safe_open(path / shard[name], framework="pt") as file:
            tensor = file.get_tensor(name)
        if shape is not None and tensor.shape != shape:
            raise ValueError(f"{path}, tensor {name!r}: found shape {tuple(tensor.shape)}, expected {tuple(shape)}")
        shape = tensor.shape
        yield tensor


def _mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    precise = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    total = torch.zeros_like(tensors[0], dtype=precise)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.to(precise), alpha=weight)
    return total / sum(weights)  # at the end, so that equal weights sum bfloat16 without rounding
