"""Attention over rows that hold several segments: packed documents, and answers that share a prompt.

Every segment attends to itself causally and, if it has a parent, to all of the parent. Documents have no parent; the
answers to a prompt have the prompt as theirs, so that it stands in the row once, forward and backward. Nothing is
computed for pairs of tokens that do not see each other, and no mask of the row's length squared exists.

Shape suffixes: B rows, T tokens of a row, N query heads, K key heads, H head size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.nn.attention.bias import causal_lower_right

ROOT = -1


@dataclass(frozen=True)
class Segments:
    """Lengths of the segments of a batch, row after row, and the index of each one's parent (`ROOT`: none).

    Raises:
        ValueError: an empty segment, or a parent that does not come before its children or has a parent itself.
    """

    lengths: tuple[int, ...]
    parents: tuple[int, ...]

    def __post_init__(self):
        if len(self.lengths) != len(self.parents) or not self.lengths or min(self.lengths) < 1:
            raise ValueError(f"segments: found lengths {self.lengths}, expected one length above 0 for each parent")
        for child, parent in enumerate(self.parents):
            if parent != ROOT and not (0 <= parent < child and self.parents[parent] == ROOT):
                raise ValueError(f"segments: found parent {parent} of segment {child}, expected an earlier root")

    @classmethod
    def documents(cls, lengths: Iterable[int]) -> "Segments":
        """Documents that never see each other."""
        lengths = tuple(lengths)
        return cls(lengths, (ROOT,) * len(lengths))

    @classmethod
    def groups(cls, groups: Iterable[tuple[int, Sequence[int]]]) -> "Segments":
        """Prompts, each followed by its answers: (length of the prompt, lengths of the answers)."""
        lengths, parents = [], []
        for prompt, answers in groups:
            parent = len(lengths)
            lengths += [prompt, *answers]
            parents += [ROOT, *[parent] * len(answers)]
        return cls(tuple(lengths), tuple(parents))

    @classmethod
    def of_positions(cls, position_ids_BT: torch.Tensor) -> "Segments":
        """Documents begin where a row begins and where positions do not follow each other."""
        starts_BT = torch.ones_like(position_ids_BT, dtype=torch.bool)
        starts_BT[:, 1:] = position_ids_BT.diff(dim=-1) != 1
        starts = [*starts_BT.flatten().nonzero().squeeze(1).tolist(), position_ids_BT.numel()]
        return cls.documents(end - start for start, end in pairwise(starts))

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """First token of every segment in the flattened batch."""
        return (0, *accumulate(self.lengths[:-1]))

    def positions(self) -> torch.Tensor:
        """Position of every token [T]: a child's go on where its parent's end."""
        first = (0 if parent == ROOT else self.lengths[parent] for parent in self.parents)
        return torch.cat([torch.arange(at, at + n) for at, n in zip(first, self.lengths, strict=True)])

    def mask(self, rows: int = 1) -> torch.Tensor:
        """The dense mask [rows, 1, T, T] that attention here does without; True where a query sees a key.

        Raises:
            ValueError: a segment that reaches over the end of a row.
        """
        segment = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        parent = torch.tensor(self.parents)[segment]
        if self.total % rows or (segment.view(rows, -1)[1:, 0] == segment.view(rows, -1)[:-1, -1]).any():
            raise ValueError(f"segments: found lengths {self.lengths}, expected them to fill {rows} equal rows")
        segment, parent = segment.view(rows, 1, -1), parent.view(rows, 1, -1)
        own = (segment[..., :, None] == segment[..., None, :]).tril()
        return own | (parent[..., :, None] == segment[..., None, :])

    @cached_property
    def siblings(self) -> tuple[tuple[int, int, int, int], ...]:
        """(start, tokens) of every run of neighbours with one parent, and (start, tokens) of that parent."""
        runs: list[list[int]] = []
        for child, parent in enumerate(self.parents):
            if parent == ROOT:
                continue
            if child and self.parents[child - 1] == parent:
                runs[-1][1] += self.lengths[child]
            else:
                runs.append([self.starts[child], self.lengths[child], self.starts[parent], self.lengths[parent]])
        return tuple(map(tuple, runs))


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
    q, k, v = (x.transpose(1, 2).reshape(1, B * T, -1, H).transpose(1, 2) for x in (q_BNTH, k_BKTH, v_BKTH))
    if q.device.type == "cpu":
        out = _CpuSegmentAttention.apply(q, k, v, segments, scale)
    else:
        out = _by_segment(q, k, v, segments, scale)
    return out.transpose(1, 2).reshape(B, T, N, H).transpose(1, 2)


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


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _CpuSegmentAttention(torch.autograd.Function):
    """Blocks through the CPU's flash kernel, which also returns log-sum-exps.

    A child's two blocks, over its parent (0) and over itself (1), are merged by them:
        lse = log(exp lse0 + exp lse1),   out = exp(lse0 - lse) out0 + exp(lse1 - lse) out1.
    The flash backward of a block needs the softmax over all keys, that is the merged `out` and `lse`, and nothing of
    the other block. The children of one parent attend to it in one call.
    """

    @staticmethod
    def forward(ctx, q, k, v, segments, scale):
        _, N, T, H = q.shape
        out = q.new_empty(1, T, N, H).transpose(1, 2)
        lse = q.new_empty(1, N, T, dtype=torch.promote_types(q.dtype, torch.float32))
        for start, length in zip(segments.starts, segments.lengths, strict=True):
            own = slice(start, start + length)
            out[:, :, own], lse[:, :, own] = _flash(q[:, :, own], k[:, :, own], v[:, :, own], 0.0, True, scale=scale)
        for start, length, parent, size in segments.siblings:
            children, seen = slice(start, start + length), slice(parent, parent + size)
            out0, lse0 = _flash(q[:, :, children], k[:, :, seen], v[:, :, seen], 0.0, False, scale=scale)
            both = torch.logaddexp(lse0, lse[:, :, children])
            share0 = (lse0 - both).exp_().unsqueeze(-1)
            merged = torch.lerp(out[:, :, children].to(share0.dtype), out0.to(share0.dtype), share0)
            out[:, :, children], lse[:, :, children] = merged, both
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.segments, ctx.scale = segments, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, k, v, out, lse = ctx.saved_tensors
        to_q, to_k, to_v = (torch.empty_like(x) for x in (q, k, v))

        def block(queries, keys, causal):
            return _flash_backward(
                gradient[:, :, queries],
                q[:, :, queries],
                k[:, :, keys],
                v[:, :, keys],
                out[:, :, queries],
                lse[:, :, queries],
                0.0,
                causal,
                scale=ctx.scale,
            )

        for start, length in zip(ctx.segments.starts, ctx.segments.lengths, strict=True):
            own = slice(start, start + length)
            to_q[:, :, own], to_k[:, :, own], to_v[:, :, own] = block(own, own, True)
        for start, length, parent, size in ctx.segments.siblings:
            children, seen = slice(start, start + length), slice(parent, parent + size)
            for total, part, where in zip(
                (to_q, to_k, to_v), block(children, seen, False), (children, seen, seen), strict=True
            ):
                total[:, :, where] += part
        return to_q, to_k, to_v, None, None
