"""What TRL's trainers do while they are made, and ours must not: round adapters, look at another revision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM

from ..runtime.replacing import replaced


@contextmanager
def adapters_as_they_are(module: ModuleType, model: Any) -> Iterator[None]:
    """Within, `module` (a trainer of TRL's) makes its trainer; afterwards what is trained has its own numbers again.

    TRL rounds what is trained on a base in 4 or 8 bits to bfloat16, and with it a score head that is whole and a policy
    that goes on from its adapter, whose reference it has copied before.
    """
    kept = []
    theirs = module.get_peft_model

    def keep(adapted: nn.Module) -> nn.Module:
        kept.extend((weight, weight.data) for weight in adapted.parameters() if weight.requires_grad)
        return adapted

    if getattr(model, "is_quantized", False) and hasattr(model, "peft_config"):
        keep(model)
    with replaced(module, "get_peft_model", lambda *args, **options: keep(theirs(*args, **options))):
        yield
    if getattr(model, "is_quantized", False):
        for weight, numbers in kept:
            weight.data = numbers


def references_as_asked(module: ModuleType) -> AbstractContextManager:
    """Within, `module` (a trainer of TRL's) loads its reference by the options given, and reads nothing else.

    TRL looks the architecture up first, in the configuration of the branch `main`, whatever revision is asked for.
    """
    theirs = module.create_model_from_path
    return replaced(module, "create_model_from_path", partial(theirs, architecture=AutoModelForCausalLM))
