"""Attention that also returns its log-sum-exp, and the merge of two attentions over parts of one context.

Plain matrix products: while decoding few queries meet many keys, and PyTorch's CPU flash kernel multiplies them a head
at a time. The operands must be contiguous, or oneDNN copies them.

Suffixes: N rows times key-value heads, Q queries of each, S keys, K size of a head.
"""

import torch
from torch import Tensor

from ..kernels.linear import LEAST_WORK, fast_products

BLOCK_BYTES = 4 << 20  # of the scores made at once, about a processor's own cache


def attend(q_NQK: Tensor, k_NSK: Tensor, v_NSK: Tensor, bias_N1S: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention of every query, scaled already, over every key.

    Args:
        bias_N1S: added to the scores; N may be 1.

    Returns:
        out_NQK and lse_NQ (float32 at least), the log-sum-exp of the scores.
    """
    (rows, queries, _), keys = q_NQK.shape, k_NSK.shape[1]
    step = rows
    if q_NQK.device.type == "cpu":
        step = max(1, BLOCK_BYTES // (4 * queries * keys))
    with fast_products(q_NQK, k_NSK, if_worth=queries > 1 and q_NQK.numel() * keys >= LEAST_WORK):
        return _attend(q_NQK, k_NSK, v_NSK, bias_N1S, step)


def _attend(q_NQK, k_NSK, v_NSK, bias_N1S, step: int) -> tuple[Tensor, Tensor]:
    if len(q_NQK) > step:
        biases = [bias_N1S] * -(-len(q_NQK) // step)
        if bias_N1S is not None and len(bias_N1S) > 1:
            biases = bias_N1S.split(step)
        parts = zip(*(x.split(step) for x in (q_NQK, k_NSK, v_NSK)), biases, strict=True)
        outs, lses = zip(*(_attend(*part, step) for part in parts), strict=True)
        return torch.cat(outs), torch.cat(lses)
    scores_NQS = torch.bmm(q_NQK, k_NSK.mT)
    if bias_N1S is not None:
        scores_NQS += bias_N1S
    probs_NQS = torch.softmax(scores_NQS, -1, dtype=torch.promote_types(scores_NQS.dtype, torch.float32))
    # the likeliest key gives the sum away; cheaper than a logsumexp
    lse_NQ = scores_NQS.amax(-1) - probs_NQS.amax(-1).log()
    return torch.bmm(probs_NQS.to(v_NSK.dtype), v_NSK), lse_NQ


def merge(a: Tensor, lse_a: Tensor, b: Tensor, lse_b: Tensor) -> Tensor:
    """Join attentions a and b (..., K) over two disjoint sets of keys, weighted by their log-sum-exps (...)."""
    return torch.lerp(b, a, torch.sigmoid(lse_a - lse_b)[..., None].to(a.dtype))
