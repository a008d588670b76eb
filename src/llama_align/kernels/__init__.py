"""PyTorch kernels without Triton, each beside its plain reference. Imports torch only."""

from .linear import Linear, linear_reference, routed

__all__ = ["Linear", "linear_reference", "routed"]
