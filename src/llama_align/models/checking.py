"""What a configuration calls for and what the headers of a checkpoint's weights hold, compared; no weights are read."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from .configuration_llama_herd import LlamaHerdConfig
from .forms import KINDS
from .modeling_llama_herd import (
    LlamaHerdForCausalLM,
    LlamaHerdForSequenceClassification,
    LlamaHerdForTokenClassification,
    LlamaHerdModel,
)
from .tensor_files import DTYPES, ConvertError, Tensor, equal, read_headers

HEADS = (LlamaHerdModel, LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, LlamaHerdForTokenClassification)
CLASSES = dict(zip(KINDS, HEADS, strict=True))
LM_HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


def shapes_of(path: Path, config: LlamaHerdConfig, kind: str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape in the model that a configuration describes.

    Raises:
        ConvertError: one that describes none; `path` is that of its file.
    """
    try:
        with torch.device("meta"):
            model = CLASSES[kind](config)  # not by _from_config, which ZeRO-3 would have share out its weights
    except Exception as error:  # whatever a field that fits nothing runs into
        raise ConvertError(
            f"{path}: found fields that make no Llama: {type(error).__name__}: {error}; expected one's"
        ) from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def differences(
    shapes: Mapping[str, tuple[int, ...]], headers: Mapping[str, Tensor], optional: Collection[str] = ()
) -> dict[str, list[str]]:
    """Kind of difference -> a line for each tensor that is not as it should be.

    Args:
        optional: tensors that may be missing.
    """
    # old checkpoints carry the rotary frequencies, which follow from the configuration
    extra = [name for name in headers if name not in shapes and not name.endswith("rotary_emb.inv_freq")]
    there = [name for name in shapes if name in headers]

    def unlike(name: str, found, expected) -> str:
        return f"{name} in {headers[name].file}: found {found}, expected {expected}"

    return {
        "missing": [name for name in shapes if name not in headers and name not in optional],
        "unexpected": [f"{name} in {headers[name].file}" for name in extra],
        "misshapen": [
            unlike(name, list(headers[name].shape), list(shapes[name]))
            for name in there
            if headers[name].shape != shapes[name]
        ],
        "of another dtype": [
            unlike(name, headers[name].dtype, " or ".join(DTYPES))
            for name in there
            if headers[name].dtype not in DTYPES
        ],
    }


def check_layers(path: Path, config: LlamaHerdConfig, headers: Mapping[str, Tensor]) -> None:
    """Raises ConvertError for more layers than tensors, before so many are made to look up their shapes."""
    if config.num_hidden_layers > len(headers):
        found = f"found {config.num_hidden_layers}, expected no more than its weights have"
        raise ConvertError(f"{path}, field 'num_hidden_layers': {found}")


def check_tied(source: Path, headers: Mapping[str, Tensor]) -> None:
    """Raises ConvertError where a head is stored beside the embeddings it is tied to, with other numbers."""
    if LM_HEAD in headers and not equal(source, headers, LM_HEAD, EMBEDDINGS):
        raise ConvertError(
            f"{source / headers[LM_HEAD].file}, tensor {LM_HEAD}: found other numbers than in {EMBEDDINGS}, expected "
            "the same, since tie_word_embeddings is true in config.json"
        )


def checked_tensors(source: Path, config: LlamaHerdConfig, kind: str) -> tuple[list[str], dict[str, Tensor]]:
    """The names of the model's tensors that are there, in its order, and the headers of all that is.

    Raises:
        ConvertError: tensors that are missing, unexpected, misshapen or not of floating-point numbers.
    """
    headers = read_headers(source)
    check_layers(source / "config.json", config, headers)
    shapes = shapes_of(source / "config.json", config, kind)
    tied = kind == "ForCausalLM" and config.tie_word_embeddings
    problems = differences(shapes, headers, optional=[LM_HEAD] if tied else [])
    if any(problems.values()):
        lists = "".join(listed(title, lines) for title, lines in problems.items())
        raise ConvertError(f"{source}: found other tensors than its config.json calls for:{lists}")
    if tied:
        check_tied(source, headers)
    return [name for name in shapes if name in headers], headers


def listed(title: str, lines: list[str], most: int = 20) -> str:
    """A title and a line for each, as an error ends; empty for none."""
    if not lines:
        return ""
    rest = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return f"\n{title} ({len(lines)}):" + "".join(f"\n  {line}" for line in lines[:most] + rest)
