"""Attention by segments: nothing is computed for pairs of tokens that do not see each other, and no mask of the row's
length squared exists.

Shape suffixes: B rows, T tokens of a row, N query heads, K key heads, H head size.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from .cpu_blocked import BlockedAttention
from .cpu_flash import FlashAttention, ShortAttention, is_short
from .linear import routed
from .segments import ROOT, Segments


def segment_attention_reference(q_BNTH, k_BKTH, v_BKTH, segments: Segments, scale: float) -> torch.Tensor:
    """What `segment_attention` computes, through the dense mask."""
    groups = q_BNTH.shape[1] // k_BKTH.shape[1]
    k_BNTH, v_BNTH = k_BKTH.repeat_interleave(groups, 1), v_BKTH.repeat_interleave(groups, 1)
    mask_B1TT = segments.mask(q_BNTH.shape[0]).to(q_BNTH.device)
    scores_BNTT = (q_BNTH @ k_BNTH.mT * scale).masked_fill(~mask_B1TT, float("-inf"))
    return scores_BNTT.softmax(-1) @ v_BNTH


def segment_attention(
    q_BNTH: torch.Tensor, k_BKTH: torch.Tensor, v_BKTH: torch.Tensor, segments: Segments, scale: float
) -> torch.Tensor:
    """Attention of every segment to itself, causally, and to its parent.

    Args:
        q_BNTH: queries; k_BKTH, v_BKTH: keys and values of as many heads or a divisor of it.
        segments: fill the rows one after the other, none reaching over a row's end.

    Returns:
        [B, N, T, H], laid out so that `transpose(1, 2)` is contiguous.

    Raises:
        ValueError: segments that do not fill the rows.
    """
    B, N, T, H = q_BNTH.shape
    if segments.total != B * T:
        raise ValueError(f"segments: found {segments.total} tokens, expected {B} rows of {T}")
    kind = q_BNTH.device.type
    # as SDPA does under autocast; rotated queries and keys come in float32
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else q_BNTH.dtype
    q, k, v = (x.to(dtype).transpose(1, 2).reshape(1, B * T, -1, H).transpose(1, 2) for x in (q_BNTH, k_BKTH, v_BKTH))
    with torch.autocast(kind, enabled=False):
        out = (_on_cpu if kind == "cpu" else _by_segment)(q, k, v, segments, scale)
    return out.transpose(1, 2).reshape(B, T, N, H).transpose(1, 2)


def _on_cpu(q, k, v, segments: Segments, scale: float) -> torch.Tensor:
    """Short families in padded batches, long ones one by one; each part leaves zeros where the other's tokens stand."""
    short, long = _by_length(segments)
    attend = BlockedAttention if routed() else FlashAttention
    parts = [
        function.apply(q, k, v, segments, families, scale)
        for function, families in ((ShortAttention, short), (attend, long))
        if families
    ]
    return sum(parts[1:], parts[0])


@lru_cache(maxsize=8)  # every layer asks
def _by_length(segments: Segments) -> tuple[tuple[range, ...], tuple[range, ...]]:
    short = tuple(family for family in segments.families if is_short(segments, family))
    return short, tuple(family for family in segments.families if not is_short(segments, family))


def _by_segment(q, k, v, segments: Segments, scale: float) -> torch.Tensor:
    """One SDPA call for each segment, a child's keys behind its parent's."""
    queries, keys, values = (x.split(segments.lengths, dim=2) for x in (q, k, v))
    outs = []
    for i, parent in enumerate(segments.parents):
        options = {"is_causal": True}
        key, value = keys[i], values[i]
        if parent != ROOT:
            key, value = torch.cat((keys[parent], key), 2), torch.cat((values[parent], value), 2)
            options = {"attn_mask": causal_lower_right(queries[i].shape[2], key.shape[2])}
        outs.append(F.scaled_dot_product_attention(queries[i], key, value, scale=scale, enable_gqa=True, **options))
    return torch.cat(outs, 2)
