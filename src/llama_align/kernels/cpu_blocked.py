"""Segment attention on processors as plain matrix products, a block of queries at a time against all keys they see.

PyTorch's CPU flash kernel multiplies tiles of 32 to 64 queries, which takes most of its time; with blocks of some
hundred rows through oneDNN (see `linear`) the same attention is about twice as fast from some hundred tokens on, and
exact in float32 whatever the model's precision. A block's scores fit the processor's cache; nothing of a row's length
squared is ever in memory, forward or backward.

Shape suffixes: K key heads, G query heads for each of them, T tokens, S keys, H head size, R = tokens x G of a block.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch.autograd.function import once_differentiable

from .linear import fast_products
from .segments import Segments

BLOCK_ROWS = 256  # tokens x G
BLOCK_BYTES = 4 << 20  # of the scores of the heads that go together


def _folded(x_NTH: torch.Tensor, heads: int) -> torch.Tensor:
    """[K, T x G, H] in float32 at least: the queries that share keys stand beside each other."""
    exact = torch.promote_types(x_NTH.dtype, torch.float32)
    return x_NTH.unflatten(0, (heads, -1)).transpose(1, 2).to(exact).contiguous().flatten(1, 2)


def _unfolded(x_KRH: torch.Tensor, like_NTH: torch.Tensor) -> torch.Tensor:
    N, T, H = like_NTH.shape
    unfolded_TKGH = x_KRH.view(x_KRH.shape[0], T, -1, H).transpose(0, 1)
    return unfolded_TKGH.to(like_NTH.dtype).reshape(T, N, H).transpose(0, 1)


@lru_cache(maxsize=64)
def _later(tokens: int, groups: int, dtype: torch.dtype) -> torch.Tensor:
    """[tokens x groups, tokens]: minus infinity where a query's own block holds a later key."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype).triu_(1).repeat_interleave(groups, 0)


class BlockedSegment:
    """One segment of a row: its queries in blocks, and the keys of its parent and its own side by side.

    Args:
        k_KTH, v_KTH: keys and values of the whole row, folded.
        own, parent: token ranges of the segment and of what it sees whole.
    """

    def __init__(self, k_KTH, v_KTH, own: slice, parent: slice | None, groups: int):
        self.own, self.parent, self.groups = own, parent, groups
        self.size = parent.stop - parent.start if parent else 0
        self.k_KSH, self.v_KSH = self._seen(k_KTH), self._seen(v_KTH)

    def _seen(self, x_KTH: torch.Tensor) -> torch.Tensor:
        own = x_KTH[:, self.own]
        return torch.cat((x_KTH[:, self.parent], own), 1) if self.parent else own

    def blocks(self) -> Iterator[tuple[slice, slice, slice]]:
        """(heads, rows of the folded queries, keys they see) of every block."""
        length, step = self.own.stop - self.own.start, max(1, BLOCK_ROWS // self.groups)
        for at in range(0, length, step):
            end = min(at + step, length)
            rows = slice((self.own.start + at) * self.groups, (self.own.start + end) * self.groups)
            keys = slice(0, self.size + end)
            together = max(1, BLOCK_BYTES // (4 * (rows.stop - rows.start) * keys.stop))
            for head in range(0, self.k_KSH.shape[0], together):
                yield slice(head, head + together), rows, keys

    def probabilities(self, q_KRH: torch.Tensor, heads: slice, rows: slice, keys: slice) -> torch.Tensor:
        scores = torch.bmm(q_KRH[heads, rows], self.k_KSH[heads, keys].mT)
        tokens = (rows.stop - rows.start) // self.groups
        scores[..., keys.stop - tokens :] += _later(tokens, self.groups, scores.dtype)
        return torch.softmax(scores, -1)

    def add(self, total_KTH: torch.Tensor, part_KSH: torch.Tensor) -> None:
        """Adds gradients of the keys or values this segment sees to those of the row."""
        if self.parent:
            total_KTH[:, self.parent] += part_KSH[:, : self.size]
        total_KTH[:, self.own] += part_KSH[:, self.size :]


def _segments(segments: Segments, families: tuple[range, ...], k_KTH, v_KTH, groups: int) -> Iterator[BlockedSegment]:
    for family in families:
        for i in family:
            parent = None if i == family[0] else segments.tokens(family[0])
            yield BlockedSegment(k_KTH, v_KTH, segments.tokens(i), parent, groups)


class BlockedAttention(torch.autograd.Function):
    """The families of one row, q [1, N, T, H], k and v [1, K, T, H]; zeros for tokens of other families. The
    backward pass makes each block's probabilities P again:
        dV = P^T dO,   dP = dO V^T,   dS = P (dP - rowsum(P dP)),   dQ = dS K,   dK = dS^T Q.
    """

    @staticmethod
    def forward(ctx, q, k, v, segments, families, scale):
        heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        q_KRH, k_KTH, v_KTH = (_folded(x[0], heads) for x in (q, k, v))
        q_KRH = q_KRH * scale  # not in place: what is folded may be the saved tensor itself
        out_KRH = torch.zeros_like(q_KRH)
        with fast_products(q_KRH):
            for segment in _segments(segments, families, k_KTH, v_KTH, groups):
                for head, rows, keys in segment.blocks():
                    probabilities = segment.probabilities(q_KRH, head, rows, keys)
                    out_KRH[head, rows] = torch.bmm(probabilities, segment.v_KSH[head, keys])
        ctx.save_for_backward(q, k, v)
        ctx.arguments = segments, families, scale
        return _unfolded(out_KRH, q[0]).unsqueeze(0)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v = ctx.saved_tensors
        segments, families, scale = ctx.arguments
        heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        q_KRH, k_KTH, v_KTH, to_out_KRH = (_folded(x[0], heads) for x in (q, k, v, gradient))
        q_KRH = q_KRH * scale  # not in place: what is folded may be the saved tensor itself
        to_q_KRH, to_k_KTH, to_v_KTH = (torch.zeros_like(x) for x in (q_KRH, k_KTH, v_KTH))
        with fast_products(q_KRH):
            for segment in _segments(segments, families, k_KTH, v_KTH, groups):
                to_k, to_v = torch.zeros_like(segment.k_KSH), torch.zeros_like(segment.v_KSH)
                for head, rows, keys in segment.blocks():
                    probabilities = segment.probabilities(q_KRH, head, rows, keys)
                    to_v[head, keys] += torch.bmm(probabilities.mT, to_out_KRH[head, rows])
                    to_probabilities = torch.bmm(to_out_KRH[head, rows], segment.v_KSH[head, keys].mT)
                    to_scores = torch._softmax_backward_data(to_probabilities, probabilities, -1, probabilities.dtype)
                    to_q_KRH[head, rows] = torch.bmm(to_scores, segment.k_KSH[head, keys])
                    to_k[head, keys] += torch.bmm(to_scores.mT, q_KRH[head, rows])
                segment.add(to_k_KTH, to_k)
                segment.add(to_v_KTH, to_v)
        to_q_KRH.mul_(scale)
        to_q, to_k, to_v = (
            _unfolded(x, y[0]).unsqueeze(0) for x, y in zip((to_q_KRH, to_k_KTH, to_v_KTH), (q, k, v), strict=True)
        )
        return to_q, to_k, to_v, None, None, None
