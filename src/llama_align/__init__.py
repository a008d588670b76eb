"""The Llama 1, 2 and 3 recipes as runnable code on the Hugging Face stack.

Importing the package registers LlamaHerd with transformers' Auto classes. Nothing else is imported until it is asked
for, so that commands without need of torch do not wait for it.
"""

from typing import TYPE_CHECKING

from .runtime.on_demand import on_demand, when_imported

if TYPE_CHECKING:
    from .models import (
        LlamaHerdConfig,
        LlamaHerdForCausalLM,
        LlamaHerdForSequenceClassification,
        LlamaHerdForTokenClassification,
        LlamaHerdModel,
    )
    from .notebook import Answers, Job, Model, Picture, Result, Reward, Run, Tokens, lines, load

__version__ = "0.1.0"

__all__ = [
    "Answers",
    "Job",
    "LlamaHerdConfig",
    "LlamaHerdForCausalLM",
    "LlamaHerdForSequenceClassification",
    "LlamaHerdForTokenClassification",
    "LlamaHerdModel",
    "Model",
    "Picture",
    "Result",
    "Reward",
    "Run",
    "Tokens",
    "lines",
    "load",
]
__getattr__ = on_demand(__name__, __file__)


def _register() -> None:
    from transformers import AutoConfig, PreTrainedConfig

    class OnDemand(PreTrainedConfig):
        """Stands for LlamaHerdConfig until one is made: `models` then registers it and the models."""

        model_type = "llama_herd"

        def __new__(cls, *args, **options):
            from .models import LlamaHerdConfig

            return LlamaHerdConfig(*args, **options)

        @classmethod
        def from_dict(cls, *args, **options):
            from .models import LlamaHerdConfig

            return LlamaHerdConfig.from_dict(*args, **options)

    AutoConfig.register(OnDemand.model_type, OnDemand, exist_ok=True)


when_imported("transformers.models.auto.configuration_auto", _register)
