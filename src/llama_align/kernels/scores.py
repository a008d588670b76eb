"""Log-probability, entropy and KL divergence per token from hidden states, the full logits never in memory.

For DPO, PPO and their like, where the gradient of each token is known only after all were scored. Shapes as in `head`.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .head import _chunks, _exact, _Gradients, _logits, _own, _room, _row_blocks, is_first, softmax


class TokenScores(NamedTuple):
    """Of every token [N], each differentiable: log p(target), entropy in nats, KL(model || reference) in nats; and
    without gradients the mean logit and whether the target is the first choice. What was not asked for is None."""

    log_probs: torch.Tensor
    entropy: torch.Tensor | None
    kl: torch.Tensor | None
    mean_logits: torch.Tensor | None
    is_top1: torch.Tensor | None


def token_scores_reference(
    logits_NV, targets_N, *, temperature=1.0, entropy=False, reference_NV=None, metrics=False
) -> TokenScores:
    """What `token_scores` computes, from the full logits of the model and, for the divergence, of the reference."""
    logits_NV = logits_NV.to(_exact(logits_NV.dtype)) / temperature
    logps_NV = logits_NV.log_softmax(-1)
    kl = None
    if reference_NV is not None:
        others_NV = (reference_NV.to(logps_NV.dtype) / temperature).log_softmax(-1)
        kl = (logps_NV.exp() * (logps_NV - others_NV)).sum(-1)
    return TokenScores(
        logps_NV.gather(1, targets_N[:, None]).squeeze(1),
        -(logps_NV.exp() * logps_NV).sum(-1) if entropy else None,
        kl,
        logits_NV.detach().mean(-1) if metrics else None,
        logits_NV.argmax(-1) == targets_N if metrics else None,
    )


def token_scores(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    reference: tuple[torch.Tensor, torch.Tensor] | None = None,
    metrics: bool = False,
) -> TokenScores:
    """Scores of every token under softmax(hidden @ weight.T / temperature).

    Args:
        hidden_ND: hidden states in the head's precision; weight_VD: the head, without bias.
        reference: hidden states [N, D'] and head [V, D'] of another model, for the KL divergence; no gradients.
        metrics: mean logit and first choice too.
    """
    if not torch.is_grad_enabled():  # a function's forward cannot tell
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
    hidden_ref, weight_ref = reference if reference is not None else (None, None)
    with torch.autocast(hidden_ND.device.type, enabled=False):
        scores = _TokenScores.apply(
            hidden_ND, weight_VD, targets_N, hidden_ref, weight_ref, temperature, entropy, metrics
        )
    asked = (True, entropy, reference is not None, metrics, metrics)
    return TokenScores(*(score if wanted else None for score, wanted in zip(scores, asked, strict=True)))


class _TokenScores(torch.autograd.Function):
    """With l = log p, H the entropy and K the divergence from q, the derivatives by logit j are
    dl/dz_j = [j = target] - p_j,  dH/dz_j = -p_j (l_j + H),  dK/dz_j = p_j (l_j - log q_j - K)."""

    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, hidden_ref, weight_ref, temperature, entropy, metrics):
        exact, count = _exact(hidden_ND.dtype), len(targets_N)
        log_probs, entropies, kl, mean = (hidden_ND.new_zeros(count, dtype=exact) for _ in range(4))
        top1 = torch.zeros_like(targets_N, dtype=torch.bool)
        room, other_room = _room(count, weight_VD), None if hidden_ref is None else _room(count, weight_ref)
        for chunk in _chunks(count, weight_VD):
            logits_CV = _logits(hidden_ND[chunk], weight_VD, room)
            others_CV = None if hidden_ref is None else _logits(hidden_ref[chunk], weight_ref, other_room)
            for rows in _row_blocks(logits_CV):
                at = slice(chunk.start + rows.start, chunk.start + rows.stop)
                block = _scaled(logits_CV[rows], exact, temperature)
                probabilities, largest, log_z = softmax(block)
                target = block.gather(1, targets_N[at, None]).squeeze(1)
                log_probs[at] = target - log_z
                if metrics:
                    mean[at], top1[at] = block.mean(-1), is_first(block, targets_N[at], target, largest)
                if entropy or others_CV is not None:
                    entropies[at] = log_z - torch.linalg.vecdot(probabilities, block)
                if others_CV is not None:
                    others = _scaled(others_CV[rows], exact, temperature).log_softmax(-1)
                    kl[at] = -entropies[at] - torch.linalg.vecdot(probabilities, others)
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, hidden_ref, weight_ref, log_probs, entropies, kl)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, top1)
        return log_probs, entropies, kl, mean, top1

    @staticmethod
    @once_differentiable
    def backward(ctx, to_log_probs, to_entropy, to_kl, *_):
        hidden_ND, weight_VD, targets_N, hidden_ref, weight_ref, log_probs, entropies, kl = ctx.saved_tensors
        gradients = _Gradients(hidden_ND, weight_VD, *ctx.needs_input_grad[:2])
        to_log_probs = torch.zeros_like(log_probs) if to_log_probs is None else to_log_probs
        alone = to_entropy is None and to_kl is None
        count = len(targets_N)
        room, other_room = _room(count, weight_VD), None if to_kl is None else _room(count, weight_ref)
        for chunk in _chunks(count, weight_VD):
            logits_CV = _logits(hidden_ND[chunk], weight_VD, room)
            others_CV = None if to_kl is None else _logits(hidden_ref[chunk], weight_ref, other_room)
            for rows in _row_blocks(logits_CV):
                at = slice(chunk.start + rows.start, chunk.start + rows.stop)
                block = _scaled(logits_CV[rows], log_probs.dtype, ctx.temperature)
                probabilities, _, log_z = softmax(block)
                if not alone:
                    slope = to_log_probs[at, None]
                    if to_entropy is not None:
                        slope = slope + to_entropy[at, None] * (block - (log_z - entropies[at])[:, None])
                    if to_kl is not None:
                        others = _scaled(others_CV[rows], block.dtype, ctx.temperature).log_softmax(-1)
                        slope = slope - to_kl[at, None] * (block - others - (log_z + kl[at])[:, None])
                    probabilities.mul_(slope)
                logits_CV[rows] = probabilities
            own, factor = _own(targets_N[chunk]), -1 / ctx.temperature
            if alone:  # p_j - [j = target], times what each token's log-probability counts
                logits_CV[own] = (log_probs[chunk].exp() - 1).to(logits_CV.dtype)
                factor = to_log_probs[chunk, None] * factor
            else:
                logits_CV[own] -= to_log_probs[chunk].to(logits_CV.dtype)
            gradients.add(chunk, logits_CV, factor)
        to_weight_VD = gradients.of_weight()
        to_weight_VD = None if to_weight_VD is None else to_weight_VD.to(weight_VD.dtype)
        return gradients.to_hidden_ND, to_weight_VD, None, None, None, None, None, None


def _scaled(logits: torch.Tensor, dtype: torch.dtype, temperature: float) -> torch.Tensor:
    logits = logits.to(dtype)
    return logits if temperature == 1 else logits / temperature
