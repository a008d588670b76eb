"""The arithmetic of PPO on answers: plain functions on tensors, no trainer.

Shape suffixes: B answers, T tokens of the longest answer. Masks are 1 on answer tokens (its terminator included).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class KLController:
    """The coefficient of the KL term: fixed, or steered to a target (Ziegler et al., 2019, section 2.2).

    e = clip(KL / target - 1, -0.2, 0.2),  beta <- beta max(1 + e n / horizon, 0.1) after n answers

    The bound keeps beta above 0 where a rollout has more answers than the horizon is meant for.
    """

    coefficient: float
    target: float | None = None
    horizon: int = 10000

    def update(self, kl: float, answers: int) -> None:
        """Args: kl: mean over answers, in nats. answers: how many, on all processes."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= max(1 + error * answers / self.horizon, 0.1)


def whiten(
    x: torch.Tensor,
    mask: torch.Tensor,
    reduce_sum: Callable[[torch.Tensor], torch.Tensor] = lambda t: t,
    shift_mean: bool = True,
) -> torch.Tensor:
    """(x - mean) / std over masked entries of all processes; with `shift_mean` off the mean is put back.

    Args:
        reduce_sum: sums a tensor over processes.
    """
    total, count = reduce_sum(torch.stack([(x * mask).sum(), mask.sum().to(x.dtype)]))
    mean = total / count.clamp(min=1)
    variance = reduce_sum(((x - mean) ** 2 * mask).sum()) / count.clamp(min=1)
    whitened = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def token_rewards(
    score_B: torch.Tensor, kl_BT: torch.Tensor, mask_BT: torch.Tensor, kl_coefficient: float
) -> torch.Tensor:
    """-beta * KL at every answer token, plus the score at the last kept one. [B, T]"""
    rewards_BT = -kl_coefficient * kl_BT * mask_BT
    last_B = mask_BT.sum(1).long() - 1
    answered_B = last_B >= 0
    rewards_BT[answered_B, last_B[answered_B]] += score_B[answered_B].to(rewards_BT.dtype)
    return rewards_BT


def gae(
    rewards_BT: torch.Tensor, values_BT: torch.Tensor, mask_BT: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al., 2015) on right-padded answers.

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1}, with V = A = 0 past the end.

    Returns:
        advantages and returns, [B, T], zero outside the mask.
    """
    values_BT = values_BT * mask_BT
    advantages_BT = torch.zeros_like(values_BT)
    last_B = torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        following_B = values_BT[:, t + 1] if t + 1 < values_BT.shape[1] else torch.zeros_like(last_B)
        delta_B = rewards_BT[:, t] + gamma * following_B - values_BT[:, t]
        last_B = (delta_B + gamma * lam * last_B) * mask_BT[:, t]
        advantages_BT[:, t] = last_B
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def policy_loss(logps_BT, old_logps_BT, advantages_BT, clip: float) -> torch.Tensor:
    """max(-A ratio, -A clip(ratio, 1 - eps, 1 + eps)) per token (Schulman et al., 2017, eq. 7)."""
    ratio_BT = (logps_BT - old_logps_BT).exp()
    return torch.max(-advantages_BT * ratio_BT, -advantages_BT * ratio_BT.clamp(1 - clip, 1 + clip))


def value_loss(values_BT, old_values_BT, returns_BT, clip: float) -> torch.Tensor:
    """Half the larger of the squared errors of the value and of the value clipped around the old one, per token."""
    clipped_BT = old_values_BT + (values_BT - old_values_BT).clamp(-clip, clip)
    return 0.5 * torch.max((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2)
