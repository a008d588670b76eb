"""Memory of models that are no longer needed."""

import gc

import torch


def release() -> None:
    """Gives the device the memory of models that nothing refers to any more, for the next one or another process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
