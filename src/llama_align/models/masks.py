"""What a token sees: a causal mask in the attention implementation's form, or the segments that make it needless.

Shape suffixes: B rows, L tokens of a row.
"""

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import (
    create_causal_mask,
    find_packed_sequence_indices,
    packed_sequence_mask_function,
)
from transformers.utils import is_tracing

from ..kernels.segments import Segments


def visible(
    model: PreTrainedModel,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
    position_ids: torch.Tensor | None,
    causal: bool = True,
) -> tuple[torch.Tensor | None, Segments | None]:
    """Mask and segments of a batch, at most one of which is there; documents of one row are kept apart.

    On a processor rows without padding are segments too.

    Raises:
        ValueError: packed documents together with padding. Packed rows end in a document of their own instead.
    """
    arguments = {
        "config": model.config,
        "inputs_embeds": inputs_embeds,
        "attention_mask": attention_mask,
        "past_key_values": past_key_values,
        "position_ids": position_ids,
    }
    fresh = past_key_values is None or _is_empty_dynamic(past_key_values)
    two_dimensional = attention_mask is None or attention_mask.ndim == 2
    by_segments = causal and fresh and two_dimensional and not traced(inputs_embeds) and takes_segments(model)
    if position_ids is None or position_ids.is_meta or position_ids.shape[-1] < 2 or not two_dimensional:
        rows = _rows(inputs_embeds, attention_mask) if by_segments else None
        return (None, rows) if rows else (create_causal_mask(**arguments | {"position_ids": None}), None)
    if is_tracing(inputs_embeds):
        if not fresh:
            return create_causal_mask(**arguments), None
        # a graph cannot ask whether a row is packed: documents are kept apart beside whatever the mask hides
        positions_BL = position_ids.expand(inputs_embeds.shape[0], -1)
        documents = packed_sequence_mask_function(find_packed_sequence_indices(positions_BL))
        alone = {"past_key_values": None, "position_ids": None, "and_mask_function": documents}
        return create_causal_mask(**arguments | alone), None
    if past_key_values is not None and past_key_values.get_seq_length() > 0:
        return create_causal_mask(**arguments), None
    row_mask = attention_mask if attention_mask is None else attention_mask[:, : position_ids.shape[-1]]
    if not _is_packed(position_ids, row_mask):
        rows = _rows(inputs_embeds, attention_mask) if by_segments else None
        return (None, rows) if rows else (create_causal_mask(**arguments | {"position_ids": None}), None)
    if attention_mask is not None and not attention_mask.bool().all():
        raise ValueError(
            "position_ids restart inside a row (packed documents) and attention_mask marks padding: "
            "expected packed rows without an attention_mask; give padding positions of its own instead"
        )
    if past_key_values is not None and not fresh:
        raise ValueError("position_ids restart inside a row (packed documents): found a static cache, expected none")
    if by_segments:
        return None, Segments.of_positions(position_ids.expand(inputs_embeds.shape[0], -1))
    # with neither a mask nor a cache transformers reads the documents off the positions
    return create_causal_mask(**arguments | {"attention_mask": None, "past_key_values": None}), None


def given_segments(
    model: PreTrainedModel,
    segments: Segments,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None,
    past_key_values: Cache | None,
) -> tuple[torch.Tensor | None, Segments | None]:
    """The same for segments that the caller states.

    Raises:
        ValueError: segments beside a mask or a filled cache, or an implementation that takes no dense mask.
    """
    seen = past_key_values.get_seq_length() if past_key_values is not None else 0
    if attention_mask is not None or seen:
        raise ValueError(f"segments: found an attention_mask or a cache of {seen} tokens beside them, expected none")
    if takes_segments(model):
        return None, segments
    implementation = model.config._attn_implementation
    if implementation not in ("sdpa", "eager"):
        raise ValueError(f"segments: found {implementation} attention, expected sdpa or eager")
    mask = segments.mask(inputs_embeds.shape[0]).to(inputs_embeds.device)
    if implementation == "eager":
        lowest = torch.finfo(inputs_embeds.dtype).min
        mask = torch.zeros_like(mask, dtype=inputs_embeds.dtype).masked_fill(~mask, lowest)
    return mask, None


def takes_segments(model: PreTrainedModel) -> bool:
    """Whether attention goes segment by segment: causal SDPA without dropout."""
    dropout = model.training and model.config.attention_dropout > 0
    causal = getattr(model.config, "is_causal", True)
    return model.config._attn_implementation == "sdpa" and causal and not dropout


def traced(tensor: torch.Tensor) -> bool:
    """Whether values are not there to be looked at: in a graph, without data, in a captured stream, in torch.func."""
    return is_tracing(tensor) or tensor.is_meta or torch._C._are_functorch_transforms_active()


def _is_packed(position_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor | None) -> bool:
    """Whether a row holds several documents: positions that do not follow each other between two attended tokens."""
    breaks = position_ids_BL.diff(dim=-1) != 1
    if attention_mask_BL is not None:
        attended = attention_mask_BL.bool()
        breaks = breaks & attended[:, 1:] & attended[:, :-1]
    return bool(breaks.any())


def _rows(inputs_embeds_BLD: torch.Tensor, attention_mask_BL: torch.Tensor | None) -> Segments | None:
    """Every row as a segment; None where one batched call is better or tokens are masked."""
    B, L = inputs_embeds_BLD.shape[:2]
    masked = attention_mask_BL is not None and (attention_mask_BL.shape != (B, L) or not attention_mask_BL.all())
    if inputs_embeds_BLD.device.type != "cpu" or L < 2 or masked:
        return None
    return Segments.documents([L] * B)


def _is_empty_dynamic(cache: Cache) -> bool:
    """Whether a cache holds nothing yet and grows with its tokens; a static one would need a mask of its full size."""
    return isinstance(cache, DynamicCache) and cache.get_seq_length() == 0
