"""From scores to tokens: penalty, temperature, top-k, top-p, min-p and an exact draw, for many rows at once.

Suffixes: N rows, V vocabulary, C context tokens.
"""

import torch
from torch import Tensor

from .engine import SamplingParams
from .streams import uniforms


def penalise(scores_NV: Tensor, context_NC: Tensor, penalty: float) -> Tensor:
    """Return the scores with those of tokens in the context made less likely (Keskar et al., 2019)."""
    seen_NC = scores_NV.gather(1, context_NC)
    return scores_NV.scatter(1, context_NC, torch.where(seen_NC < 0, seen_NC * penalty, seen_NC / penalty))


def choose(
    scores_NV: Tensor, params: SamplingParams, streams_N: Tensor, steps_N: Tensor, context_NC: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        scores_NV: float32 scores of the model.
        streams_N, steps_N: whose random numbers to use, see `streams`.
        context_NC: the tokens a repetition penalty acts on; duplicates do no harm. None: no penalty.

    Returns:
        tokens_N (int64) and logprobs_N (float32), the latter of the untouched scores.
    """
    warped_NV = scores_NV if context_NC is None else penalise(scores_NV, context_NC, params.repetition_penalty)
    if params.temperature == 0:
        tokens_N = warped_NV.argmax(-1)
    else:
        probs_NV = torch.softmax(warped_NV if params.temperature == 1 else warped_NV / params.temperature, -1)
        chosen_probs_NV = probs_NV if params.top_k == 0 else _keep_top_k(probs_NV, params.top_k)
        tokens_N = _draw(chosen_probs_NV, params, streams_N, steps_N)
        if params.temperature == 1 and context_NC is None:
            return tokens_N, probs_NV.gather(1, tokens_N[:, None])[:, 0].log()
    return tokens_N, scores_NV.gather(1, tokens_N[:, None])[:, 0] - scores_NV.logsumexp(-1)


def _keep_top_k(probs_NV: Tensor, k: int) -> Tensor:
    floor_N1 = probs_NV.topk(min(k, probs_NV.shape[1]), -1).values[:, -1:]
    return probs_NV.where(probs_NV >= floor_N1, 0)


def _draw(probs_NV: Tensor, params: SamplingParams, streams_N: Tensor, steps_N: Tensor) -> Tensor:
    """Draw from probs (not normalised) restricted to the top-p set and to min-p, without sorting.

    A draw belongs to the top-p set if the mass of the likelier tokens is below top_p. If it does not, no token as
    unlikely as it belongs either: these are struck out and the row draws again from the rest, which is still a
    superset of the set, so the result is exact. Rows need about 1/top_p draws at most, usually one.
    """
    limit_N1 = params.top_p * probs_NV.sum(-1, keepdim=True) if params.top_p < 1 else None
    if params.min_p > 0:
        probs_NV = probs_NV.where(probs_NV >= params.min_p * probs_NV.amax(-1, keepdim=True), 0)
    tokens_N = _invert_cdf(probs_NV, uniforms(streams_N, steps_N))
    if limit_N1 is None:
        return tokens_N
    rows_N, attempt = torch.arange(len(tokens_N), device=tokens_N.device), 0
    while True:
        picked_N1 = probs_NV.gather(1, tokens_N[rows_N, None])
        likelier_NV = probs_NV.where(probs_NV > picked_N1, 0)
        again_N = (likelier_NV.sum(-1, keepdim=True) >= limit_N1)[:, 0].nonzero()[:, 0]
        if len(again_N) == 0:
            return tokens_N
        attempt += 1
        probs_NV, limit_N1, rows_N = likelier_NV[again_N], limit_N1[again_N], rows_N[again_N]
        tokens_N[rows_N] = _invert_cdf(probs_NV, uniforms(streams_N[rows_N], steps_N[rows_N], attempt))


def _invert_cdf(probs_NV: Tensor, u_N: Tensor) -> Tensor:
    cdf_NV = probs_NV.cumsum(-1)
    total_N1 = cdf_NV[:, -1:].contiguous()
    # strictly below the total, so that the first larger entry exists and its token has a probability above zero
    at_N1 = torch.minimum(u_N[:, None].float() * total_N1, torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    return torch.searchsorted(cdf_NV, at_N1, right=True)[:, 0]
