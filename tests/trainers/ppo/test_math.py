"""The arithmetic of PPO against plain loops over single numbers, in float64, and Llama 2's combined reward."""

import math
import random

import pytest
import torch

from llama_align.rewards.models import llama2_reward
from llama_align.trainers.ppo.math import gae, policy_loss, token_rewards, value_loss, whiten


def batch(seed: int, rows: int = 6, longest: int = 9):
    """Three random [B, T] tensors and a right-padded mask with answers of 1 to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)
    tensors = torch.randn(3, rows, longest, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    mask = (torch.arange(longest) < lengths[:, None]).double()
    return *tensors, mask, lengths


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.99, 0.0)])
@pytest.mark.parametrize("seed", range(5))
def test_gae_equals_a_loop(seed, gamma, lam):
    rewards, values, _, mask, lengths = batch(seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for b, length in enumerate(lengths.tolist()):
        r, v = rewards[b].tolist(), values[b].tolist()
        deltas = [r[t] + gamma * (v[t + 1] if t + 1 < length else 0.0) - v[t] for t in range(length)]
        wanted = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
        assert advantages[b, :length].tolist() == pytest.approx(wanted, abs=1e-12)
        assert returns[b, :length].tolist() == pytest.approx([a + v[t] for t, a in enumerate(wanted)], abs=1e-12)
        assert not advantages[b, length:].any()
        assert not returns[b, length:].any()


def test_returns_without_discount_are_rewards_to_go():
    rewards, values, _, mask, lengths = batch(0)
    _, returns = gae(rewards, values, mask, 1.0, 1.0)
    for b, length in enumerate(lengths.tolist()):
        togo = rewards[b, :length].flip(0).cumsum(0).flip(0)
        torch.testing.assert_close(returns[b, :length], togo)


@pytest.mark.parametrize("seed", range(5))
def test_token_rewards_put_the_score_on_the_last_kept_token(seed):
    kl, _, _, mask, lengths = batch(seed)
    score = torch.arange(6, dtype=torch.float64) + 100
    rewards = token_rewards(score, kl, mask, 0.03)
    for b, length in enumerate(lengths.tolist()):
        wanted = [-0.03 * kl[b, t].item() for t in range(length)]
        wanted[-1] += 100 + b
        assert rewards[b, :length].tolist() == pytest.approx(wanted, abs=1e-12)
        assert not rewards[b, length:].any()  # in particular not on the first padding token


def test_an_answer_without_kept_tokens_gets_no_score():
    mask = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert token_rewards(torch.tensor([5.0, 7.0]), torch.zeros(2, 2), mask, 1.0).tolist() == [[0, 0], [7, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_policy_loss_equals_a_loop(seed):
    logps, change, advantages, _, _ = batch(seed)
    loss = policy_loss(logps, logps + 0.4 * change, advantages, 0.2)
    for b in range(6):
        for t in range(9):
            ratio, a = math.exp(-0.4 * change[b, t].item()), advantages[b, t].item()
            assert loss[b, t].item() == pytest.approx(max(-a * ratio, -a * min(max(ratio, 0.8), 1.2)), abs=1e-12)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "moves"),
    [(0.0, 1.0, True), (0.5, 1.0, False), (0.5, -1.0, True), (-0.5, 1.0, True), (-0.5, -1.0, False)],
)
def test_the_clip_stops_the_gradient_only_where_it_would_go_too_far(log_ratio, advantage, moves):
    logps = torch.tensor([[log_ratio]], requires_grad=True)
    policy_loss(logps, torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2).sum().backward()
    assert (logps.grad.item() != 0) == moves


@pytest.mark.parametrize("seed", range(5))
def test_value_loss_equals_a_loop(seed):
    values, old, returns, _, _ = batch(seed)
    loss = value_loss(values, old, returns, 0.2)
    for b in range(6):
        for t in range(9):
            v, o, r = values[b, t].item(), old[b, t].item(), returns[b, t].item()
            clipped = o + min(max(v - o, -0.2), 0.2)
            assert loss[b, t].item() == pytest.approx(0.5 * max((v - r) ** 2, (clipped - r) ** 2), abs=1e-12)


@pytest.mark.parametrize("shift_mean", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_whitening_equals_a_loop(seed, shift_mean):
    x, _, _, mask, _ = batch(seed)
    kept = [value for value, keep in zip(x.flatten().tolist(), mask.flatten().tolist(), strict=True) if keep]
    mean = sum(kept) / len(kept)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in kept) / len(kept) + 1e-8)
    white = whiten(x, mask, shift_mean=shift_mean)
    wanted = [(value - mean) / deviation + (0 if shift_mean else mean) for value in kept]
    assert white[mask.bool()].tolist() == pytest.approx(wanted, abs=1e-10)
    assert not white[~mask.bool()].any()


def test_whitening_over_processes_is_whitening_of_everything():
    x, _, _, mask, _ = batch(0)
    halves = [(x[:3], mask[:3]), (x[3:], mask[3:])]
    white = whiten(x, mask)
    mean = (x * mask).sum() / mask.sum()
    totals = iter(
        [[torch.stack([(a * m).sum(), m.sum()]) for a, m in halves], [((a - mean) ** 2 * m).sum() for a, m in halves]]
    )
    first = whiten(*halves[0], reduce_sum=lambda _: sum(next(totals)))
    torch.testing.assert_close(first, white[:3])


def test_whitening_of_equal_scores_is_zero_and_finite():
    for count in (1, 4):
        white = whiten(torch.full((count,), 3.7), torch.ones(count))
        assert white.abs().max() < 1e-2


def test_llama2_reward_truth_table():
    """R_s if it is a safety prompt or R_s < 0.15, else R_h, on the sigmoid scale; then logit."""
    draw = random.Random(0)
    rows = [(draw.gauss(0, 3), draw.gauss(-1.7, 1.0), draw.random() < 0.5) for _ in range(400)]
    found = llama2_reward(*(torch.tensor(column) for column in zip(*rows, strict=True))).tolist()
    kinds = set()
    for (helpful, safe, is_safety), combined in zip(rows, found, strict=True):
        probability = 1 / (1 + math.exp(-safe))
        wanted = probability if is_safety or probability < 0.15 else 1 / (1 + math.exp(-helpful))
        assert combined == pytest.approx(math.log(wanted / (1 - wanted)), abs=1e-4)
        kinds.add((is_safety, probability < 0.15))
    assert len(kinds) == 4


def test_llama2_reward_at_the_threshold_is_the_helpfulness():
    at = math.log(0.15 / 0.85)
    scores = llama2_reward(torch.full((3,), 2.0), torch.tensor([at - 1e-3, at + 1e-3, 5.0]), torch.zeros(3).bool())
    assert scores.tolist() == pytest.approx([at - 1e-3, 2.0, 2.0])
    assert llama2_reward(torch.tensor([2.0]), torch.tensor([0.0]), torch.zeros(1).bool(), threshold=0.6).item() == 0.0
