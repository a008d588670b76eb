"""Exact log-likelihood of token sequences, for perplexity."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .batches import token_batches


@torch.no_grad()
def negative_log_likelihood(
    model, sequences: Sequence[Sequence[int]], max_tokens: int = 8192
) -> tuple[list[float], list[int]]:
    """Sum of -log p of every token given those before it, and their number, by sequence.

    The first token is given, not predicted. Float32 sums; independent of how sequences fall into batches.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    sums, counts = [0.0] * len(sequences), [max(len(ids) - 1, 0) for ids in sequences]
    for batch in token_batches([len(ids) for ids in sequences], max_tokens):
        length = max(len(sequences[i]) for i in batch)
        ids_BL = torch.zeros(len(batch), length, dtype=torch.long, device=device)
        labels_BL = torch.full_like(ids_BL, -100)
        for row, i in enumerate(batch):
            ids_BL[row, : len(sequences[i])] = torch.tensor(sequences[i])
            labels_BL[row, 1 : len(sequences[i])] = torch.tensor(sequences[i][1:])
        # right padding cannot reach back in a causal model, so no mask is needed
        logits_BLV = model(input_ids=ids_BL, use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits_BLV.transpose(1, 2), labels_BL[:, 1:], reduction="none").double().sum(1)
        for row, i in enumerate(batch):
            sums[i] = losses[row].item()
    model.train(was_training)
    return sums, counts
