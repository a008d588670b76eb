"""Models whose weights ZeRO-3 or FSDP2 has shared out among processes, where something other than the whole is called.

Both hook into the forward of the module that was prepared and of its layers; a part that is called by itself meets
shards where weights were.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType

import torch
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers.integrations import deepspeed as zero
from trl.models.utils import add_hooks, remove_hooks

from .replacing import replaced


def keep_wide(accelerator) -> None:
    """Under FSDP2 in half precision: casts weights, not what goes in and comes out, and sums gradients in float32.

    accelerate 1.15 asks FSDP2 to round all of these: log-probabilities to three digits, and the number of tokens that
    a loss is divided by. Llama 3 reduces gradients in float32 (section 3.3.2), as torchtitan does.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        param_dtype = plugin.mixed_precision_policy.param_dtype
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype, torch.float32, cast_forward_inputs=False)


def references_by_layers(module: ModuleType) -> AbstractContextManager:
    """Within, `module` (a trainer of TRL's) shards its reference under FSDP2 layer by layer, as accelerate the policy.

    TRL makes it one unit, which every forward pass would gather whole on every process.
    """
    theirs = module.prepare_fsdp

    def prepare(model: nn.Module, accelerator) -> nn.Module:
        if not accelerator.is_fsdp2:
            return theirs(model, accelerator)
        # what is not trained is not given float32 shards
        return fsdp2_prepare_model(accelerator, model.requires_grad_(False)).eval()

    return replaced(module, "prepare_fsdp", prepare)


@contextmanager
def root_gathered(model: nn.Module) -> Iterator[None]:
    """Within, parts of a model under FSDP2 may be called: layers gather themselves, what is in none is gathered here.

    All processes must make the same calls. Does nothing for any other model.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model._get_fsdp_state()._lazy_init()  # or the first part that is called would be taken for the root
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


@contextmanager
def whole_part(engine: nn.Module, part: nn.Module, accelerator) -> Iterator[None]:
    """Within, `part` of a prepared `engine` is whole on every process, for each to call as often as it likes.

    Under ZeRO-3 and FSDP2 its weights are gathered first, and the hooks that would gather and release them layer by
    layer, all processes together, are off meanwhile. Under FSDP2 what is in none of the part's layers must be the
    root's, as in an engine without embeddings of its own.
    """
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    if isinstance(engine, FSDPModule):
        with root_gathered(engine), _layers_gathered(part, accelerator.state.fsdp_plugin.reshard_after_forward):
            yield
    elif plugin is not None and plugin.zero_stage == 3:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(part.parameters())):
            remove_hooks(engine)
            try:
                yield
            finally:
                add_hooks(engine)
    else:
        yield


@contextmanager
def _layers_gathered(part: nn.Module, reshard_after_forward: bool) -> Iterator[None]:
    """FSDP2's hooks gather what is not there yet and release what may be released: within, neither is anything."""
    layers = [module for module in part.modules() if isinstance(module, FSDPModule)]
    for layer in layers:
        layer.unshard()
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(reshard_after_forward, recurse=False)
            layer.reshard()


@contextmanager
def outside_zero3() -> Iterator[None]:
    """Models loaded within are whole on every process, though ZeRO-3 would shard them: reward models have no engine."""
    config = zero._hf_deepspeed_config_weak_ref and zero._hf_deepspeed_config_weak_ref()
    zero.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            zero.set_hf_deepspeed_config(config)
