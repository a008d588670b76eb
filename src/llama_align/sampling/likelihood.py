"""Exact log-likelihood of token sequences, for perplexity."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..models import LlamaHerdForCausalLM
from ..models.head import labelled, losses_of
from .batches import token_batches
from .engine import unwrap
from .native import inference


def negative_log_likelihood(
    model, sequences: Sequence[Sequence[int]], max_tokens: int = 8192, given: Sequence[int] | None = None
) -> tuple[list[float], list[int]]:
    """Sum of -log p of every token given those before it, and their number, by sequence.

    Independent of how sequences fall into batches, up to rounding; a sequence with nothing to predict sums to 0.

    Args:
        given: tokens at the start of each sequence that are not predicted, at least 1; 1 of each where left out.
    """
    given = [1] * len(sequences) if given is None else given
    sums, counts = [0.0] * len(sequences), [max(len(ids) - n, 0) for ids, n in zip(sequences, given, strict=True)]
    device = next(model.parameters()).device
    predicted = [i for i, count in enumerate(counts) if count]
    with inference(model):
        for batch in token_batches([len(sequences[i]) for i in predicted], max_tokens):
            rows = [predicted[i] for i in batch]
            losses = _losses(model, [sequences[i] for i in rows], [given[i] for i in rows], device)
            for i, loss in zip(rows, losses, strict=True):
                sums[i] = loss
    return sums, counts


def _losses(model, batch: list[Sequence[int]], given: list[int], device: torch.device) -> list[float]:
    ids_BL = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long, device=device)
    labels_BL = torch.full_like(ids_BL, -100)
    for row, ids in enumerate(batch):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        labels_BL[row, given[row] : len(ids)] = torch.tensor(ids[given[row] :])
    # right padding cannot reach back in a causal model, so no mask is needed
    if not isinstance(unwrap(model), LlamaHerdForCausalLM):
        logits_BLV = model(input_ids=ids_BL, use_cache=False).logits[:, :-1].float()
        return F.cross_entropy(logits_BLV.transpose(1, 2), labels_BL[:, 1:], reduction="none").double().sum(1).tolist()
    herd = unwrap(model)
    hidden_ND, targets_N, where_N = labelled(herd.model(input_ids=ids_BL, use_cache=False).last_hidden_state, labels_BL)
    losses_N = losses_of(herd.lm_head, hidden_ND, targets_N).losses.double()
    return losses_N.new_zeros(len(batch)).index_add_(0, where_N // ids_BL.shape[1], losses_N).tolist()
