"""A padded batch as one row of segments: no padding, and a beginning that several rows share only once.

Shape suffixes: B rows, L padded length, T tokens of the one row.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..kernels.segments import Segments
from .masks import takes_segments


@dataclass(frozen=True)
class SharedRows:
    """`input_ids` [1, T] and what they see; `where_BL`: the index into T of every token of the batch (0: padding);
    `last_B`: the segment every row ends in."""

    input_ids: torch.Tensor
    segments: Segments
    where_BL: torch.Tensor
    last_B: torch.Tensor


def can_share(model: PreTrainedModel) -> bool:
    """Whether a model is a LlamaHerd whose attention goes by segments; a dense mask over all rows would cost more."""
    return model.config.model_type == "llama_herd" and takes_segments(model) and not torch.compiler.is_compiling()


def share_prompts(
    input_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor, answer_mask_BL: torch.Tensor | None = None
) -> SharedRows:
    """Rows with equal prompts become one prompt with their answers behind it.

    A prompt is what stands before the first token of `answer_mask_BL`. What the answers begin with in common is shared
    too. A row whose prompt no other row has is a document; so is every row without `answer_mask_BL`.

    Raises:
        ValueError: padding between tokens, or a row of padding alone.
    """
    first, lengths = _extent(attention_mask_BL)
    ids = [row[at : at + n] for row, at, n in zip(input_ids_BL.tolist(), first, lengths, strict=True)]
    prompts = [0] * len(ids)
    if answer_mask_BL is not None:
        begins = torch.where(answer_mask_BL.any(1), answer_mask_BL.int().argmax(1), 0).tolist()
        prompts = [max(begin - at, 0) for begin, at in zip(begins, first, strict=True)]
    groups = defaultdict(list)
    for row, prompt in enumerate(prompts):
        groups[tuple(ids[row][:prompt]) or row].append(row)

    tokens, layout, count = [], [], 0
    where_BL, last_B = torch.zeros(input_ids_BL.shape, dtype=torch.long), torch.zeros(len(ids), dtype=torch.long)
    for rows in groups.values():
        common = common_length([ids[row] for row in rows], prompts[rows[0]]) if len(rows) > 1 else 0
        own = [lengths[row] - common for row in rows]
        layout += [(common, own)] if common else [(length, []) for length in own]
        count += bool(common)
        root = len(tokens)
        tokens += ids[rows[0]][:common]
        for row, length in zip(rows, own, strict=True):
            at, end = first[row], first[row] + lengths[row]
            where_BL[row, at : at + common] = torch.arange(root, root + common)
            where_BL[row, at + common : end] = torch.arange(len(tokens), len(tokens) + length)
            last_B[row] = count
            count += 1
            tokens += ids[row][common:]
    device = input_ids_BL.device
    row = torch.tensor([tokens], device=device)
    return SharedRows(row, Segments.groups(layout), where_BL.to(device), last_B.to(device))


def _extent(attention_mask_BL: torch.Tensor) -> tuple[list[int], list[int]]:
    attended = attention_mask_BL.bool()
    first, lengths = attended.int().argmax(1), attended.sum(1)
    last = attended.shape[1] - 1 - attended.flip(1).int().argmax(1)
    if (lengths == 0).any() or (last - first + 1 != lengths).any():
        raise ValueError("attention_mask: found padding between tokens or a row of padding, expected one run of tokens")
    return first.tolist(), lengths.tolist()


def common_length(rows: Sequence[Sequence[int]], known: int = 0) -> int:
    """Length of the shared beginning, `known` of it given; every row keeps a token of its own."""
    most = min(map(len, rows)) - 1
    while known < most and all(row[known] == rows[0][known] for row in rows):
        known += 1
    return min(known, most)
