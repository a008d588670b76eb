"""Segment attention through PyTorch's CPU flash kernel: short families in padded batches, long ones block by block.

A family is a root segment with its children. Both functions take q [1, N, T, H], k and v [1, K, T, H] and leave zeros
for tokens of other families.
"""

from functools import lru_cache

import torch
from torch.autograd.function import once_differentiable

from .segments import ROOT, Segments

BUCKETS = (16, 32, 48, 64, 96, 128)  # lengths that short families are padded to

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def is_short(segments: Segments, family: range) -> bool:
    """Whether calls of their own would cost a family more than padding does."""
    return sum(segments.lengths[i] for i in family) <= BUCKETS[-1]


@lru_cache(maxsize=8)  # every layer asks, forward and backward
def _batches(segments: Segments, families: tuple[range, ...]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """By bucket: tokens [n, m] (0 at padding), which of them are there [n, m], and the mask [n, 1, m, m] or None."""
    buckets: dict[int, list[range]] = {}
    for family in families:
        length = sum(segments.lengths[i] for i in family)
        buckets.setdefault(next(size for size in BUCKETS if size >= length), []).append(family)
    return [_batch(segments, some, size) for size, some in sorted(buckets.items())]


def _batch(segments: Segments, families: list[range], size: int):
    shape = (len(families), size)
    tokens, owner, parent = torch.zeros(shape, dtype=torch.long), torch.full(shape, -2), torch.full(shape, -3)
    for row, family in enumerate(families):
        first = segments.starts[family[0]]
        for i in family:
            at = slice(segments.starts[i] - first, segments.starts[i] - first + segments.lengths[i])
            tokens[row, at] = torch.arange(segments.starts[i], segments.starts[i] + segments.lengths[i])
            owner[row, at], parent[row, at] = i, segments.parents[i] if segments.parents[i] != ROOT else -3
    there = owner >= 0
    if all(len(family) == 1 for family in families):
        return tokens, there, None  # plainly causal: padding stands behind what is read
    sees = (owner[:, :, None] == owner[:, None]).tril() | (parent[:, :, None] == owner[:, None])
    return tokens, there, torch.zeros(sees.shape).masked_fill_(~sees, float("-inf")).unsqueeze(1)


class ShortAttention(torch.autograd.Function):
    """Families of one bucket as a padded batch, in float32 at least: the kernel is slow on short rows in bf16."""

    @staticmethod
    def forward(ctx, q, k, v, segments, families, scale):
        exact = torch.promote_types(q.dtype, torch.float32)
        out_TNH = q.new_zeros(q.shape[2], q.shape[1], q.shape[3])
        kept = []
        for tokens, there, mask in _batches(segments, families):
            batch = [x[0].transpose(0, 1)[tokens].to(exact).transpose(1, 2) for x in (q, k, v)]
            options = {"attn_mask": None if mask is None else mask.to(exact), "scale": scale}
            out, lse = _flash(*batch, 0.0, mask is None, **options)
            out_TNH[tokens[there]] = out.transpose(1, 2)[there].to(q.dtype)
            kept += [out, lse]
        ctx.save_for_backward(q, k, v, *kept)
        ctx.arguments = segments, families, scale
        return out_TNH.transpose(0, 1).unsqueeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v, *kept = ctx.saved_tensors
        segments, families, scale = ctx.arguments
        exact = torch.promote_types(q.dtype, torch.float32)
        totals = [torch.zeros_like(x[0].transpose(0, 1), memory_format=torch.contiguous_format) for x in (q, k, v)]
        results = zip(kept[::2], kept[1::2], strict=True)
        for (tokens, there, mask), (out, lse) in zip(_batches(segments, families), results, strict=True):
            batch = [x[0].transpose(0, 1)[tokens].to(exact).transpose(1, 2) for x in (q, k, v)]
            to_out = gradient[0].transpose(0, 1)[tokens].to(exact).mul_(there[..., None, None]).transpose(1, 2)
            options = {"attn_mask": None if mask is None else mask.to(exact), "scale": scale}
            parts = _flash_backward(to_out, *batch, out, lse, 0.0, mask is None, **options)
            for total, part in zip(totals, parts, strict=True):
                total[tokens[there]] = part.transpose(1, 2)[there].to(total.dtype)
        return *(total.transpose(0, 1).unsqueeze(0) for total in totals), None, None, None


class FlashAttention(torch.autograd.Function):
    """Segments one by one; the children of a parent attend to it in one call.

    A child's two blocks, over its parent (0) and over itself (1), are merged by their log-sum-exps:
        lse = log(exp lse0 + exp lse1),   out = exp(lse0 - lse) out0 + exp(lse1 - lse) out1.
    The flash backward of a block needs the softmax over all keys, that is the merged `out` and `lse`, and nothing of
    the other block.
    """

    @staticmethod
    def forward(ctx, q, k, v, segments, families, scale):
        _, N, T, H = q.shape
        out = q.new_zeros(1, T, N, H).transpose(1, 2)
        lse = q.new_zeros(1, N, T, dtype=torch.promote_types(q.dtype, torch.float32))
        for queries, keys, causal in _blocks(segments, families):
            part, sums = _flash(q[:, :, queries], k[:, :, keys], v[:, :, keys], 0.0, causal, scale=scale)
            if not causal:
                both = torch.logaddexp(sums, lse[:, :, queries])
                share = (sums - both).exp_().unsqueeze(-1)
                part = torch.lerp(out[:, :, queries].to(share.dtype), part.to(share.dtype), share)
                sums = both
            out[:, :, queries], lse[:, :, queries] = part, sums
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.arguments = segments, families, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v, out, lse = ctx.saved_tensors
        segments, families, scale = ctx.arguments
        totals = [torch.zeros_like(x) for x in (q, k, v)]
        for queries, keys, causal in _blocks(segments, families):
            at_queries = [x[:, :, queries] for x in (gradient, q)]
            at_keys = [x[:, :, keys] for x in (k, v)]
            merged = [x[:, :, queries] for x in (out, lse)]
            parts = _flash_backward(*at_queries, *at_keys, *merged, 0.0, causal, scale=scale)
            for total, part, where in zip(totals, parts, (queries, keys, keys), strict=True):
                total[:, :, where] += part
        return *totals, None, None, None


def _blocks(segments: Segments, families: tuple[range, ...]):
    """(queries, keys, whether causal): every segment over itself, then all children over their parent."""
    for family in families:
        for i in family:
            yield segments.tokens(i), segments.tokens(i), True
        if len(family) > 1:
            children = slice(segments.starts[family[1]], segments.tokens(family[-1]).stop)
            yield children, segments.tokens(family[0]), False
