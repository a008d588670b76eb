"""Options of transformers and TRL whose defaults follow from the machine and from how a recipe was launched."""

import os

import torch

from ..runtime.trackers import CHOICE


def launch_defaults() -> dict:
    """Defaults by option; what a YAML or a command line says wins over them."""
    found = {"tracker": os.environ.get(CHOICE, "none")} | _precision()
    return found if torch.cuda.is_available() else found | _group_on_cpu()


def _says(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_{name}", "false").lower() == "true"


def _precision() -> dict:
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if _says("USE_DEEPSPEED"):  # which refuses to start where its file and the recipe do not say the same
        return {name: launched == name for name in ("bf16", "fp16")}
    if launched in ("bf16", "fp16") or not torch.cuda.is_available() or _says("USE_CPU"):
        return {"bf16": launched == "bf16"}
    return {}  # bf16 unless fp16 is asked for, the rule of TRL's configs


def _group_on_cpu() -> dict:
    # without use_cpu transformers refuses bf16, and accelerate joins several processes into no group at all; with it,
    # accelerate leaves DeepSpeed out
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return {"use_cpu": not _says("USE_DEEPSPEED") and not torch.accelerator.is_available()}
    if _says("USE_DEEPSPEED"):
        _use_gloo_alone()
    return {"ddp_backend": "gloo", "use_cpu": not _says("USE_DEEPSPEED")}


def _use_gloo_alone() -> None:
    import deepspeed

    # a shared-memory collective that DeepSpeed compiles at first use, which takes a minute, g++ and Python's headers
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
