"""Weight averaging of checkpoints (Llama 3, section 4.1.5)."""

from .average import average_checkpoints

__all__ = ["average_checkpoints"]
