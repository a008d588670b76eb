"""The draw against the exact distribution, the random streams, and attention in two parts."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llama_align.sampling import attention
from llama_align.sampling.attention import attend, merge
from llama_align.sampling.engine import SamplingParams
from llama_align.sampling.native import NativeEngine
from llama_align.sampling.next_token import WIDTH, _token_at, choose
from llama_align.sampling.streams import answer_streams, uniforms

DRAWS = 40_000


def exact_probabilities(scores_V, params, context):
    """The distribution `generate` samples from."""
    steps = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(params.repetition_penalty)])
    steps.append(TemperatureLogitsWarper(float(params.temperature)))
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        steps.append(MinPLogitsWarper(params.min_p))
    return steps(torch.tensor([context]), scores_V[None].clone()).softmax(-1)[0]


def assert_fits(tokens, probs_V):
    """Nothing impossible is drawn, and chi-square does not reject at about 1 in 100,000 (normal approximation)."""
    counts_V = torch.bincount(tokens, minlength=len(probs_V)).double()
    assert counts_V[probs_V == 0].sum() == 0
    expected_V = probs_V.double() * len(tokens)
    kept = expected_V > 5
    if kept.sum() < 2:
        return
    chi2 = ((counts_V - expected_V) ** 2 / expected_V)[kept].sum()
    freedom = kept.sum() - 1
    # Wilson and Hilferty (1931): the cube root of chi-square is nearly normal
    z = ((chi2 / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
    assert z < 4.3


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"top_p": 0.9},
        {"top_p": 0.5},
        {"top_p": 0.02},
        {"top_k": 5},
        {"min_p": 0.1},
        {"repetition_penalty": 1.4},
        {"top_k": 12, "top_p": 0.7, "min_p": 0.05, "repetition_penalty": 0.8},
    ],
)
def test_draws_follow_the_exact_distribution(temperature, filters):
    params = SamplingParams(temperature=temperature, **filters)
    generator = torch.Generator().manual_seed(3)
    scores_V, context = 2 * torch.randn(23, generator=generator), [1, 4, 4, 9]
    streams = answer_streams(11, [5] * DRAWS, range(DRAWS))
    tokens, logprobs = choose(
        scores_V.expand(DRAWS, -1),
        params,
        streams,
        torch.full_like(streams, 3),
        torch.tensor([context]).expand(DRAWS, -1) if params.repetition_penalty != 1 else None,
    )
    assert_fits(tokens, exact_probabilities(scores_V, params, context))
    assert torch.allclose(logprobs, scores_V.log_softmax(-1)[tokens], atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}, {"top_k": 6}, {"min_p": 0.1}, {"top_k": 9, "top_p": 0.9}])
def test_tokens_of_the_engine_follow_the_model(model, temperature, filters):
    """The first token, and the second after the most frequent firsts: prefill and decoding."""
    params, prompt = SamplingParams(n=5000, max_new_tokens=2, temperature=temperature, **filters), [4, 8, 15, 16]
    (answers,) = NativeEngine(model).generate([prompt], params, set())
    tokens_N2 = torch.tensor([answer.ids for answer in answers])
    most = tokens_N2[:, 0].bincount().topk(2).indices.tolist()
    for start, drawn in (([], tokens_N2[:, 0]), *(([t], tokens_N2[tokens_N2[:, 0] == t, 1]) for t in most)):
        with torch.no_grad():
            scores_V = model(torch.tensor([prompt + start])).logits[0, -1]
        assert_fits(drawn, exact_probabilities(scores_V, params, prompt + start))


def test_top_p_of_a_flat_distribution_and_of_ties():
    streams = answer_streams(0, [0] * 1000, range(1000))
    params = SamplingParams(top_p=0.01)
    tokens, _ = choose(torch.zeros(1000, 50), params, streams, streams * 0)
    assert len(tokens.unique()) == 50, "tied tokens are all in or all out"
    scores = torch.full((1000, 50), -torch.inf)
    scores[:, 49] = 0
    assert choose(scores, params, streams, streams * 0)[0].eq(49).all()


def test_a_cdf_that_rises_where_there_is_nothing_draws_nothing_impossible():
    """What an accelerator's cumsum may give: a group of no probability an ulp above its neighbour, or the last one."""
    probs_NV = torch.zeros(2, 3 * WIDTH)
    probs_NV[:, 5], probs_NV[0, 2 * WIDTH + 7], probs_NV[1, 9] = 0.5, 0.25, 0.25
    sums_NG = probs_NV.unflatten(-1, (3, WIDTH)).sum(-1)
    above = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).item()
    cdf_NG = torch.tensor([[0.5, above, 0.75], [0.75, 0.75, torch.tensor(0.75).nextafter(torch.tensor(1.0)).item()]])
    # in float32 exactly the end of the first group, and the last there is
    u_N = torch.tensor([0.5 / 0.75, 1 - 2**-24], dtype=torch.float64)
    assert _token_at(probs_NV, sums_NG, cdf_NG, u_N).tolist() == [5, 5], "the likeliest instead"
    # a cut vocabulary: no id behind its end
    assert _token_at(probs_NV[:, :-3], sums_NG, cdf_NG, u_N).tolist() == [5, 5]


def test_uniforms_are_uniform_and_unrelated():
    streams = answer_streams(1, [k for k in range(100) for _ in range(10)], list(range(10)) * 100)
    assert len(streams.unique()) == 1000
    u = torch.stack([uniforms(streams, step, attempt) for step in range(40) for attempt in range(2)])
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u.flatten(), 100, 0, 1).double()
    assert ((counts - 800) ** 2 / 800).sum() < 99 + 4.5 * (2 * 99) ** 0.5
    assert torch.corrcoef(u).triu(1).abs().max() < 0.16, "between steps and attempts"
    assert torch.corrcoef(u.T).triu(1).abs().max() < 0.6, "between keys and answers"
    steps = torch.arange(1000)
    assert torch.equal(uniforms(streams, steps)[7:8], uniforms(streams[7:8], steps[7:8]))


@pytest.mark.parametrize("block", [1, attention.BLOCK_BYTES])
@pytest.mark.parametrize("keys", [9, 200])
def test_attention_over_two_parts_equals_attention_over_all(keys, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_BYTES", block)
    torch.manual_seed(0)
    q, k, v = torch.randn(6, 4, 16), torch.randn(6, keys + 40, 16), torch.randn(6, keys + 40, 16)
    first, second = torch.zeros(6, 1, keys), torch.zeros(1, 1, 40)
    first[1, :, 5:] = second[..., 33:] = -torch.inf
    whole = torch.cat((first, second.expand(6, -1, -1)), -1)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=whole)
    q = q / 4
    parts = (attend(q, k[:, :keys], v[:, :keys], first), attend(q, k[:, keys:], v[:, keys:], second))
    assert torch.allclose(merge(*parts[0], *parts[1]), expected, atol=1e-6)
