"""LlamaHerd, registered with transformers' Auto classes on import."""

from peft.utils import constants as peft_constants
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from ..sizes import PRESETS
from ..sizes.cost import Cost, Flops, Memory, Parameters, cost, parameter_count
from .configuration_llama_herd import LlamaHerdConfig
from .modeling_llama_herd import (
    LlamaHerdForCausalLM,
    LlamaHerdForSequenceClassification,
    LlamaHerdForTokenClassification,
    LlamaHerdModel,
    LlamaHerdPreTrainedModel,
)
from .presets import preset

AutoConfig.register(LlamaHerdConfig.model_type, LlamaHerdConfig, exist_ok=True)
AutoModel.register(LlamaHerdConfig, LlamaHerdModel, exist_ok=True)
AutoModelForCausalLM.register(LlamaHerdConfig, LlamaHerdForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(LlamaHerdConfig, LlamaHerdForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(LlamaHerdConfig, LlamaHerdForTokenClassification, exist_ok=True)

# LoRA and its relatives look the layers to adapt up by model type
for table in vars(peft_constants).values():
    if isinstance(table, dict) and "llama" in table:
        table.setdefault(LlamaHerdConfig.model_type, table["llama"])

__all__ = [
    "PRESETS",
    "Cost",
    "Flops",
    "LlamaHerdConfig",
    "LlamaHerdForCausalLM",
    "LlamaHerdForSequenceClassification",
    "LlamaHerdForTokenClassification",
    "LlamaHerdModel",
    "LlamaHerdPreTrainedModel",
    "Memory",
    "Parameters",
    "cost",
    "parameter_count",
    "preset",
]
