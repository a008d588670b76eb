"""Bases in 4 or 8 bits under an adapter (QLoRA, Dettmers et al., 2023; LLM.int8(), Dettmers et al., 2022).

A base is rounded as it is loaded, and its adapter learns beside the rounded weights. So what training made is the
adapter on those: an adapter says how its base was rounded, and is merged into that base rounded in the same way and
multiplied out, not into the weights that it never saw.
"""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from .errors import RecipeError

# where adapter_config.json says it: PEFT writes this dictionary and reads it back as it is, and looks into it only
# where an adapter has no task
FIELD, KEY = "auto_mapping", "quantised"
OF_4BIT = {"bnb_4bit_quant_type": ("nf4", "fp4"), "use_bnb_nested_quant": (False, True)}
TYPES = ("float32", "bfloat16", "float16")
Rounding = dict[str, Any]  # the options that say how, by name, and the type of the weights before


def rounding_of(options: Any, dtype: str) -> Rounding | None:
    """How the options of a model ask its base to be rounded, weights of `dtype`; None where they do not."""
    if options.load_in_4bit:
        return {"load_in_4bit": True, "dtype": dtype} | {name: getattr(options, name) for name in OF_4BIT}
    return {"load_in_8bit": True, "dtype": dtype} if options.load_in_8bit else None


def read_rounding(file: str | Path) -> Rounding | None:
    """How the base was rounded that an adapter was trained on, from its `adapter_config.json`.

    Raises:
        RecipeError: what says nothing of the kind.
    """
    found = (json.loads(Path(file).read_text()).get(FIELD) or {}).get(KEY)
    if found is None:
        return None
    four = {"load_in_4bit": (True,), "dtype": TYPES} | OF_4BIT
    eight = {"load_in_8bit": (True,), "dtype": TYPES}
    for form in (four, eight):
        if isinstance(found, dict) and found.keys() == form.keys() and all(found[k] in form[k] for k in form):
            return found
    raise RecipeError(
        f"{file}, field '{FIELD}.{KEY}': found {found!r}, expected load_in_8bit and dtype, or load_in_4bit, dtype, "
        f"{' and '.join(OF_4BIT)}"
    )


def write_rounding(config: Any, rounding: Rounding | None) -> None:
    """Has a configuration of PEFT's say how the base is rounded, or that it is not."""
    others = {name: value for name, value in (getattr(config, FIELD) or {}).items() if name != KEY}
    setattr(config, FIELD, (others | ({KEY: rounding} if rounding else {})) or None)


def bitsandbytes_knows(device: str) -> bool:
    """Whether bitsandbytes is installed and rounds weights on this kind of device."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return False
    import bitsandbytes

    return device in getattr(bitsandbytes, "supported_torch_devices", {"cuda"})


def check_rounding(rounding: Rounding | None, adapter: str | None = None) -> None:
    """Raises RecipeError where weights cannot be rounded: without bitsandbytes, or shared out among processes.

    Args:
        adapter: that asks for it; None: the options do.
    """
    if rounding is None:
        return
    name, device = next(name for name in rounding if name.startswith("load_in_")), PartialState().device.type
    said = f"{adapter}: found {name}" if adapter else f"{name}: found true"
    if not bitsandbytes_knows(device):
        raise RecipeError(
            f"{said}, expected it only with the package bitsandbytes, in a version for this device "
            f"({device}): pip install 'llama_align[qlora]'"
        )
    fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    if shared := "ZeRO-3" if is_deepspeed_zero3_enabled() else "FSDP" if fsdp else None:
        raise RecipeError(
            f"{said} under {shared}, which shares out weights as the numbers they are, expected plain "
            "data parallelism or ZeRO-2; packed weights belong to scales that would stay behind"
        )


def loading(rounding: Rounding, compute_dtype: str = "float32", storage: str | None = None) -> dict[str, Any]:
    """What `from_pretrained` is told, so that a base comes rounded, on this process's device.

    Args:
        compute_dtype: of products with 4-bit weights. storage: type that these are packed into.
    """
    if rounding.get("load_in_8bit"):
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=rounding["bnb_4bit_quant_type"],
            bnb_4bit_use_double_quant=rounding["use_bnb_nested_quant"],
            bnb_4bit_compute_dtype=compute_dtype,
            bnb_4bit_quant_storage=storage,
        )
    return {"quantization_config": config, "dtype": rounding["dtype"], "device_map": {"": PartialState().device}}


def multiplied_out(model: PreTrainedModel) -> PreTrainedModel:
    """A model that was loaded rounded, all of its weights, with what rounding made of them, in float32."""
    model = model.dequantize(torch.float32)
    for weight in model.parameters():
        weight.data = weight.data.float()
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit", "hf_device_map"):
        model.__dict__.pop(name, None)
    return model
