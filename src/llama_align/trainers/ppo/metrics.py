"""What PPO logs, as sums over counts: exact under any split into batches and processes."""

from collections.abc import Callable

import torch


class Tally:
    """Adds up values and weights by name until they are read."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, name: str, values: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Counts `values` in, each once or as often as `weights` says."""
        values = values.detach().double()
        weights = torch.ones_like(values) if weights is None else weights.detach().double()
        pair = torch.stack([(values * weights).sum(), weights.sum()])
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def read(self, reduce_sum: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Means over all processes, which must have counted the same names; empties the tally.

        Args:
            reduce_sum: sums a tensor over processes.
        """
        if not self.sums:
            return {}
        names = sorted(self.sums)
        total_N, count_N = reduce_sum(torch.stack([self.sums[name] for name in names])).unbind(1)
        self.sums = {}
        means = dict(zip(names, (total_N / count_N.clamp(min=1e-12)).tolist(), strict=True))
        if "_return" in means:
            spread = means.pop("_return_squared") - means.pop("_return") ** 2
            means["value/explained_variance"] = 1 - means.pop("_value_error") / max(spread, 1e-8)
        return means


def count_rollout(tally: Tally, scores, combined_B, kl_BT, mask_BT, lengths_B, finished_B, coefficient: float) -> None:
    """Scores, KL and lengths of a rollout; an answer left out counts for `answers/` alone."""
    kept_B = mask_BT.any(1).float()
    kl_B = (kl_BT * mask_BT).sum(1)
    tally.add("reward", combined_B, kept_B)
    for name, score_B in scores.items():
        if name != "combined":
            tally.add(f"rewards/{name}", score_B, kept_B)
    if coefficient:  # without the term no reference is read, and the KL is not known
        tally.add("kl", kl_B, kept_B)
    tally.add("kl_coefficient", torch.tensor(coefficient, dtype=torch.float64, device=kl_B.device))
    tally.add("objective/rlhf", combined_B - coefficient * kl_B, kept_B)
    tally.add("answers/length", lengths_B.float())
    tally.add("answers/finished", finished_B.float())
    tally.add("answers/kept", kept_B)


def count_losses(tally: Tally, found, batch: dict, policy_BT, value_BT, clips: tuple[float, float]) -> None:
    """Losses of a mini-batch and how far policy and critic have moved since its rollout."""
    mask_BT = batch["completion_mask"].float()
    ratio_clip, value_clip = clips
    log_ratio_BT = (found.logps - batch["old_logps"]) * mask_BT
    ratio_BT = log_ratio_BT.exp()
    moved_BT = found.values - batch["old_values"]
    returns_BT = batch["returns"]
    for name, values_BT in (
        ("loss/policy", policy_BT),
        ("loss/value", value_BT),
        ("entropy", found.entropy),
        ("policy/ratio", ratio_BT),
        ("policy/approx_kl", 0.5 * log_ratio_BT**2),
        ("policy/clip_fraction", (ratio_BT - 1).abs() > ratio_clip),
        ("value/mean", found.values),
        ("value/clip_fraction", moved_BT.abs() > value_clip),
        ("_value_error", (returns_BT - found.values) ** 2),
        ("_return", returns_BT),
        ("_return_squared", returns_BT**2),
    ):
        tally.add(name, values_BT, mask_BT)
