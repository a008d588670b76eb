"""Safetensors checkpoints on disk: what their headers say, and shards rewritten a few megabytes at a time."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..runtime.files import write_text

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# files that go with weights and their config.json: generation settings and the tokenizer, whatever its kind
BESIDE = (
    *("generation_config.json", "chat_template.jinja", "chat_template.json", "tokenizer_config.json"),
    *("tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt"),
)
LICENCES = ("LICENSE*", "NOTICE*", "USE_POLICY*")  # patterns of the files that say what may be done with it
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CHUNK = 8 * 2**20  # bytes of a tensor in memory at a time


class ConvertError(ValueError):
    """A checkpoint or an option that a user can put right."""


def read_object(path: Path) -> dict:
    """The fields of a JSON file.

    Raises:
        ConvertError: one that is broken or holds no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConvertError(f"{path}: found {type(found).__name__}, expected an object")
    return found


@dataclass(frozen=True)
class Tensor:
    """What a header says of a tensor, and which file holds it."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    def bytes(self, dtype: torch.dtype | None = None) -> int:
        """Its size on disk, or that after a change of dtype."""
        return prod(self.shape) * (dtype or DTYPES[self.dtype]).itemsize


def read_headers(folder: Path) -> dict[str, Tensor]:
    """Tensor name -> `Tensor`, file by file; no weights are read.

    Raises:
        ConvertError: no safetensors weights, a shard that is absent or broken, or an index that says otherwise.
    """
    placed = _weight_map(folder)
    found = {}
    for file in [SINGLE] if placed is None else sorted(set(placed.values())):
        if not (folder / file).is_file():
            raise ConvertError(f"{folder / file}: found no such file, expected the shard that {INDEX} names")
        for name, tensor in headers_of(folder, file).items():
            if placed is not None and placed.get(name) != file:
                wanted = f"in {placed[name]}" if name in placed else "in no file"
                raise ConvertError(f"{folder / file}: found tensor {name}, expected it {wanted} as in {INDEX}")
            found[name] = tensor
    for name in placed or ():
        if name not in found:
            missing = f"found no tensor {name}, which {INDEX} places there"
            raise ConvertError(f"{folder / placed[name]}: {missing}; expected it")
    return found


def headers_of(folder: Path, file: str) -> dict[str, Tensor]:
    """Tensor name -> `Tensor` of one file. Raises ConvertError where it is not whole."""
    try:
        with safe_open(folder / file, framework="pt") as opened:
            pieces = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {name: Tensor(file, p.get_dtype(), tuple(p.get_shape())) for name, p in pieces.items()}
    except (SafetensorError, OSError) as error:
        raise ConvertError(f"{folder / file}: found no whole safetensors file ({error}), expected one") from error


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Tensor name -> file from the index; None for one file, which transformers reads first where both are there."""
    if (folder / SINGLE).is_file():
        return None
    if not (folder / INDEX).is_file():
        raise ConvertError(_no_weights(folder))
    return read_index(folder)["weight_map"]


def read_index(folder: Path) -> dict:
    """The index of a folder's shards, empty where there is none.

    Raises:
        ConvertError: one that says nothing, or names anything but files beside it.
    """
    path = folder / INDEX
    if not path.is_file():
        return {}
    index = read_object(path)
    if not isinstance(index.get("weight_map"), dict):
        raise ConvertError(f"{path}: found no field 'weight_map', expected the file of every tensor")
    for name, file in index["weight_map"].items():
        if not isinstance(file, str) or Path(file).name != file:  # it names the output's files, too
            raise ConvertError(f"{path}, tensor {name}: found {file!r}, expected the name of a file beside it")
    if not isinstance(index.get("metadata", {}), dict):
        raise ConvertError(f"{path}, field 'metadata': found {index['metadata']!r}, expected an object")
    return index


def index_metadata(folder: Path) -> dict:
    """What the index says beside the places of tensors; an index beside one whole file is not read, as it is stale."""
    return {} if (folder / SINGLE).is_file() else read_index(folder).get("metadata", {})


def _no_weights(folder: Path) -> str:
    expected = f"expected {SINGLE} or {INDEX}"
    if meta := sorted(folder.glob("consolidated*.pth")):
        return (
            f"{meta[0]}: found Meta's own form of the weights (pickles), {expected}; every Llama is published in that "
            "form, too, and python -m transformers.models.llama.convert_llama_weights_to_hf writes it"
        )
    if pickles := sorted(folder.glob("*.bin")):
        return (
            f"{pickles[0]}: found weights in a pickle, which can run code when it is read, {expected}. If you trust "
            "where it came from, load it with transformers' AutoModelForCausalLM.from_pretrained and write safetensors "
            "with save_pretrained"
        )
    return f"{folder}: found no weights, {expected}"


def equal(folder: Path, headers: dict[str, Tensor], first: str, second: str) -> bool:
    """Whether two tensors hold the same bytes."""
    if (headers[first].dtype, headers[first].shape) != (headers[second].dtype, headers[second].shape):
        return False
    pairs = zip(_chunks(folder, first, headers[first]), _chunks(folder, second, headers[second]), strict=True)
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def parse_size(size: int | str) -> int:
    """Bytes of a size such as 5000000, "500MB" or "5GB" (powers of ten, as transformers counts them).

    Raises:
        ConvertError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", str(size).strip(), flags=re.IGNORECASE)
    number = float(match[1]) * 1000 ** ("", "K", "M", "G", "T").index((match[2] or "B").upper()[:-1]) if match else 0
    if number < 1:
        raise ConvertError(f"max_shard_size: found {size!r}, expected a size such as 5GB or 500MB")
    return int(number)


def reshard(names: Sequence[str], sizes: dict[str, int], largest: int) -> dict[str, list[str]]:
    """File name -> tensors, in the order given; a tensor above `largest` bytes has a shard of its own."""
    shards: list[list[str]] = [[]]
    for name in names:
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > largest:
            shards.append([])
        shards[-1].append(name)
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}


def can_copy(folder: Path, file: str, names: Iterable[str], headers: dict[str, Tensor], dtype) -> bool:
    """Whether a shard of the source serves as it is: all its tensors wanted, none changed, its format said."""
    held = {name for name, tensor in headers.items() if tensor.file == file}
    if held != set(names) or any(dtype not in (None, DTYPES[headers[name].dtype]) for name in held):
        return False
    with safe_open(folder / file, framework="pt") as opened:
        return len(held) == len(opened.keys()) and (opened.metadata() or {}).get("format") == "pt"


def write_shard(
    path: Path,
    folder: Path,
    names: Sequence[str],
    headers: dict[str, Tensor],
    dtype: torch.dtype | None,
    ends: Mapping[str, tuple[int, torch.Tensor]] | None = None,
) -> None:
    """A safetensors file of tensors of `folder`, in `dtype` where given.

    safetensors' own writer takes whole tensors, all of a file at once; this one holds `CHUNK` bytes.

    Args:
        ends: tensor name -> how many of its rows are written, and the rows that follow them, in the tensor's type.

    Raises:
        ConvertError: numbers beyond the range of `dtype`.
    """
    codes, ends = {value: code for code, value in DTYPES.items()}, ends or {}
    kinds = {name: dtype or DTYPES[headers[name].dtype] for name in names}
    names = sorted(names, key=lambda name: -kinds[name].itemsize)  # so that every tensor is aligned
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        rows, last = ends.get(name, (None, None))
        shape = list(headers[name].shape) if last is None else [rows + len(last), *last.shape[1:]]
        start, end = end, end + prod(shape) * kinds[name].itemsize
        header[name] = {"dtype": codes[kinds[name]], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            rows, last = ends.get(name, (None, None))
            following = [] if last is None else [last.reshape(-1)]
            for chunk in chain(_chunks(folder, name, headers[name], rows), following):
                out.write(
                    cast(chunk, kinds[name], f"{folder / headers[name].file}, tensor {name}").view(torch.uint8).numpy()
                )


def cast(numbers: torch.Tensor, dtype: torch.dtype, where: str) -> torch.Tensor:
    """The numbers in another type. Raises ConvertError, `where` first, for those beyond its range."""
    found = numbers.to(dtype)
    if dtype != numbers.dtype and not torch.equal(found.isfinite(), numbers.isfinite()):
        raise ConvertError(
            f"{where}: found numbers up to {numbers.abs().max():.3g}, expected at most {torch.finfo(dtype).max:.3g}, "
            f"the largest of {dtype}"
        )
    return found


def _chunks(folder: Path, name: str, tensor: Tensor, first: int | None = None) -> Iterator[torch.Tensor]:
    """The tensor's numbers in order, or those of its `first` rows, some rows at a time, as vectors."""
    rows = max(1, CHUNK // max(1, tensor.bytes() // max(1, tensor.shape[0])))
    end = tensor.shape[0] if first is None else first
    for start in range(0, end, rows):
        # opened anew for each: pages of a mapped file count as the process's memory until it is closed
        with safe_open(folder / tensor.file, framework="pt") as opened:
            yield opened.get_slice(name)[start : min(start + rows, end)].contiguous().reshape(-1)


def retype(folder: Path, dtype: torch.dtype) -> None:
    """Gives a checkpoint's weights another type, shard by shard, each written beside the old one and then renamed.

    Raises:
        ConvertError: numbers beyond the range of `dtype`.
    """
    headers = read_headers(folder)
    for file in sorted({tensor.file for tensor in headers.values()}):
        names = [name for name, tensor in headers.items() if tensor.file == file]
        if not can_copy(folder, file, names, headers, dtype):
            part = folder / f"{file}.part"
            part.unlink(missing_ok=True)
            write_shard(part, folder, names, headers, dtype)
            os.replace(part, folder / file)
    index, config = read_index(folder), read_object(folder / "config.json")
    if index:
        size = sum(tensor.bytes(dtype) for tensor in headers.values())
        _replace_json(folder / INDEX, index | {"metadata": index.get("metadata", {}) | {"total_size": size}})
    _replace_json(folder / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})


def _replace_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")  # as transformers writes it
