"""The Llama 1, 2 and 3 recipes as runnable code on the Hugging Face stack.

Importing the package registers LlamaHerd with transformers' Auto classes.
"""

from .models import (
    LlamaHerdConfig,
    LlamaHerdForCausalLM,
    LlamaHerdForSequenceClassification,
    LlamaHerdForTokenClassification,
    LlamaHerdModel,
)

__version__ = "0.1.0"

__all__ = [
    "LlamaHerdConfig",
    "LlamaHerdForCausalLM",
    "LlamaHerdForSequenceClassification",
    "LlamaHerdForTokenClassification",
    "LlamaHerdModel",
]
