"""From scores to tokens: penalty, temperature, top-k, top-p, min-p and an exact draw, for many rows at once.

Suffixes: N rows, V vocabulary, C context tokens, G groups of neighbouring tokens, W tokens of a group.
"""

import torch
from torch import Tensor

from .engine import SamplingParams
from .streams import uniforms

WIDTH = 64  # of a group: a draw goes first to a group, then to a token in it, and adds up one group alone


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
    # the likeliest token gives the logsumexp away, in half its time
    lse_N = scores_NV.amax(-1) - torch.softmax(scores_NV, -1).amax(-1).log()
    return tokens_N, scores_NV.gather(1, tokens_N[:, None])[:, 0] - lse_N


def _keep_top_k(probs_NV: Tensor, k: int) -> Tensor:
    return _at_least(probs_NV, probs_NV.topk(min(k, probs_NV.shape[1]), -1).values[:, -1:])


def _above(probs_NV: Tensor, floor_N1: Tensor) -> Tensor:
    """The probabilities above the floor, zeros elsewhere; in vectorised passes, which `where` is not."""
    return (probs_NV - floor_N1).relu_().sign_().mul_(probs_NV)


def _at_least(probs_NV: Tensor, floor_N1: Tensor) -> Tensor:
    return _above(probs_NV, torch.nextafter(floor_N1, torch.full_like(floor_N1, -1)))


def _draw(probs_NV: Tensor, params: SamplingParams, streams_N: Tensor, steps_N: Tensor) -> Tensor:
    """Draw from probs (not normalised) restricted to the top-p set and to min-p, without sorting.

    A draw belongs to the top-p set if the mass of the likelier tokens is below top_p. If it does not, no token as
    unlikely as it belongs either: these are struck out and the row draws again from the rest, which is still a
    superset of the set, so the result is exact. Rows need about 1/top_p draws at most, usually one.
    """
    limit_N1 = params.top_p * probs_NV.sum(-1, keepdim=True) if params.top_p < 1 else None
    if params.min_p > 0:
        probs_NV = _at_least(probs_NV, params.min_p * probs_NV.amax(-1, keepdim=True))
    tokens_N = _invert_cdf(probs_NV, uniforms(streams_N, steps_N))
    if limit_N1 is None:
        return tokens_N
    rows_N, attempt = torch.arange(len(tokens_N), device=tokens_N.device), 0
    while True:
        picked_N1 = probs_NV.gather(1, tokens_N[rows_N, None])
        likelier_NV = _above(probs_NV, picked_N1)
        again_N = (likelier_NV.sum(-1, keepdim=True) >= limit_N1)[:, 0].nonzero()[:, 0]
        if len(again_N) == 0:
            return tokens_N
        attempt += 1
        probs_NV, limit_N1, rows_N = likelier_NV[again_N], limit_N1[again_N], rows_N[again_N]
        tokens_N[rows_N] = _invert_cdf(probs_NV, uniforms(streams_N[rows_N], steps_N[rows_N], attempt))


def _invert_cdf(probs_NV: Tensor, u_N: Tensor) -> Tensor:
    vocabulary = probs_NV.shape[1]
    whole = vocabulary - vocabulary % WIDTH
    sums_NG = probs_NV[:, :whole].unflatten(-1, (-1, WIDTH)).sum(-1)
    if whole < vocabulary:
        sums_NG = torch.cat((sums_NG, probs_NV[:, whole:].sum(-1, keepdim=True)), -1)
    return _token_at(probs_NV, sums_NG, sums_NG.cumsum(-1), u_N)


def _token_at(probs_NV: Tensor, sums_NG: Tensor, cdf_NG: Tensor, u_N: Tensor) -> Tensor:
    vocabulary = probs_NV.shape[1]
    group_N1, at_N1 = _first_above(cdf_NG, u_N[:, None].float() * cdf_NG[:, -1:])
    rest_N1 = at_N1 - (cdf_NG.gather(1, group_N1) - sums_NG.gather(1, group_N1))
    columns_NW = group_N1 * WIDTH + torch.arange(WIDTH, device=probs_NV.device)
    probs_NW = probs_NV.gather(1, columns_NW.clamp(max=vocabulary - 1)).where(columns_NW < vocabulary, 0)
    place_N1, _ = _first_above(probs_NW.cumsum(-1), rest_N1)
    tokens_N1 = (group_N1 * WIDTH + place_N1).clamp(max=vocabulary - 1)
    impossible_N1 = probs_NV.gather(1, tokens_N1) == 0
    # an accelerator adds up in parts: its cdf may rise by an ulp where there is nothing, and a draw may fall in there
    if bool(impossible_N1.any()):
        tokens_N1 = torch.where(impossible_N1, probs_NV.argmax(-1, keepdim=True), tokens_N1)
    return tokens_N1[:, 0]


def _first_above(cdf_NV: Tensor, at_N1: Tensor) -> tuple[Tensor, Tensor]:
    """The first entry of each cdf above `at`, and `at` itself, held at or above zero and below the total: so the entry
    exists and, where the cdf never rises without cause, has a probability above zero."""
    total_N1 = cdf_NV[:, -1:].contiguous()
    at_N1 = torch.minimum(at_N1.clamp(min=0), torch.nextafter(total_N1, torch.zeros_like(total_N1)))
    return torch.searchsorted(cdf_NV, at_N1, right=True).clamp_(max=cdf_NV.shape[1] - 1), at_N1
