"""The Llama 1, 2 and 3 recipes as runnable code on the Hugging Face stack.

Importing the package registers LlamaHerd with transformers' Auto classes.
"""

import sys
from pathlib import Path

# a script puts its own folder first on the path, where recipes/evaluate.py would hide the `evaluate` library
if sys.path and all(Path(sys.path[0], name).is_file() for name in ("evaluate.py", "rounds.py")):
    sys.path.pop(0)

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
