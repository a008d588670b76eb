"""PyTorch kernels without Triton, each beside its plain reference. Imports torch only."""

from .attention import segment_attention, segment_attention_reference
from .elementwise import rms_norm, rms_norm_reference, swiglu, swiglu_reference
from .head import CrossEntropy, cross_entropy, cross_entropy_reference
from .linear import Linear, linear_reference, plain, routed
from .scores import TokenScores, token_scores, token_scores_reference
from .segments import Segments

__all__ = [
    "CrossEntropy",
    "Linear",
    "Segments",
    "TokenScores",
    "cross_entropy",
    "cross_entropy_reference",
    "linear_reference",
    "plain",
    "rms_norm",
    "rms_norm_reference",
    "routed",
    "segment_attention",
    "segment_attention_reference",
    "swiglu",
    "swiglu_reference",
    "token_scores",
    "token_scores_reference",
]
