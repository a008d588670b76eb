"""PyTorch kernels without Triton, each beside its plain reference. Imports torch only."""

from .linear import Linear, linear_reference, plain, routed

__all__ = ["Linear", "linear_reference", "plain", "routed"]
