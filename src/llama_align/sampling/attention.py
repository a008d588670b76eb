"""Attention that also returns its log-sum-exp, and the merge of two attentions over parts of one context.

Suffixes: B batch, H heads, Q queries, S keys, K size of a head.
"""

import torch
from torch import Tensor


def attend(q_BHQK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention of every query over every key.

    Args:
        bias: added to the scores; of q's dtype, broadcastable to (B, H, Q, S).

    Returns:
        out_BHQK and lse_BHQ, the log-sum-exp of the scores.
    """
    if q_BHQK.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q_BHQK, k_BHSK, v_BHSK, attn_mask=bias)
    return attend_plain(q_BHQK, k_BHSK, v_BHSK, bias)


def attend_plain(q_BHQK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same with matrix products only, for devices whose fused operators differ in what they return."""
    scores_BHQS = (q_BHQK * q_BHQK.shape[-1] ** -0.5) @ k_BHSK.transpose(-1, -2)
    scores_BHQS = scores_BHQS.float() if bias is None else scores_BHQS.float() + bias
    lse_BHQ = scores_BHQS.logsumexp(-1)
    return (scores_BHQS - lse_BHQ[..., None]).exp().to(v_BHSK.dtype) @ v_BHSK, lse_BHQ


def merge(a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
    """Join attentions a and b (..., K) over two disjoint sets of keys, weighted by their log-sum-exps (...)."""
    return torch.lerp(b, a, torch.sigmoid(lse_a - lse_b)[..., None].to(a.dtype))
