"""Engines by name."""

from typing import Any

import torch

from .engine import Engine
from .native import NativeEngine, why_not_native
from .transformers_engine import TransformersEngine
from .vllm_engine import VLLMEngine


def make_engine(name: str, model: Any, **options) -> Engine:
    """Make the engine called `name`.

    Args:
        name: "native", "transformers", "vllm", or "auto": native for a Llama-shaped model, else transformers.
        model: the model itself, or for vllm the path of a checkpoint.
        options: passed to the engine.

    Raises:
        ValueError: the name is unknown, `model` is not what this engine takes, or the native engine cannot run it.
        ImportError: vllm is asked for and not installed.
    """
    engines = {"native": NativeEngine, "transformers": TransformersEngine, "vllm": VLLMEngine}
    if name not in ("auto", *engines):
        raise ValueError(f"engine must be one of auto, {', '.join(engines)}, found {name!r}")
    if name != "vllm" and not isinstance(model, torch.nn.Module):
        raise ValueError(f"the {name} engine takes a loaded model, found a {type(model).__name__}")
    if name == "auto":
        name = "transformers" if why_not_native(model) else "native"
    return engines[name](model, **options)
