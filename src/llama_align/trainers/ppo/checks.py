"""What the first batch of PPO must look like: most bugs of PPO show there, and only there, as plain numbers.

In float32 the largest difference of any answer token counts and may be 1e-3. In half precision single unlikely tokens
differ by more between two correct computations: there the mean difference counts and may be 0.05. (Measured in float32:
3e-6 between the native sampler and the trainer, 0 between rollout and first loss.)

Shape suffixes: B answers, T tokens of the longest answer.
"""

from collections.abc import Callable

import torch

FLOAT32_LIMIT, HALF_LIMIT = 1e-3, 0.05


class FirstBatchError(ValueError):
    """The first batch is not what PPO's equations say; training on it would teach something else."""


class FirstBatchChecks:
    """Raises on every process where one of them finds its first batch wrong.

    Args:
        half: the networks compute in bfloat16 or float16. gather: joins tensors [1, ...] of all processes.
    """

    def __init__(self, half: bool, gather: Callable[[torch.Tensor], torch.Tensor]):
        self.half = half
        self.gather = gather

    def sampler(self, sampled_BT, logps_BT, mask_BT, temperature: float) -> None:
        """The log-probabilities that the sampler returned are the trainer's: neither is of a warped distribution."""
        self._equal(
            "log-probabilities",
            sampled_BT - logps_BT,
            mask_BT,
            "between sampler and trainer; one of them is of other weights, of other positions, or taken after the "
            f"sampling warp (temperature {temperature}, top_k, top_p, penalties)",
        )

    def reference(self, logps_BT, reference_BT, mask_BT, name: str) -> None:
        """Before the first step policy and reference are one model."""
        self._equal(
            "KL at step 0",
            logps_BT - reference_BT,
            mask_BT,
            f"in log-probability between policy and reference; the reference was loaded anew from {name!r} (with LoRA: "
            "is the policy without its adapter), so the policy given was not in that state",
        )

    def ratio(self, logps_BT, old_logps_BT, mask_BT) -> None:
        """Before the first step the policy is the one that the answers were scored with."""
        self._equal(
            "ratio before the first step",
            logps_BT - old_logps_BT,
            mask_BT,
            "in log-probability between two passes of one policy; dropout is on, or rows and their log-probabilities "
            "were mixed up",
        )

    def rollout(self, batch: dict, rewards_BT, score_B, kl_BT, coefficient: float, terminators) -> None:
        """The score stands on the last kept token, and nothing at all at padding."""
        mask_BT = batch["completion_mask"].bool()
        places_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
        length_B = mask_BT.sum(1)
        if self._any((mask_BT != (places_T < length_B[:, None])).any()):
            raise FirstBatchError("answers: found padding before or between tokens, expected it behind them")
        ended_BT = torch.isin(batch["completion_ids"], torch.tensor(terminators, device=mask_BT.device)) & mask_BT
        last_BT = places_T == length_B[:, None] - 1
        if self._any((ended_BT & ~last_BT).any()):
            raise FirstBatchError("answers: found tokens kept after a terminator, expected the answer to end there")
        wanted_BT = score_B[:, None] * last_BT - coefficient * kl_BT * mask_BT
        wrong_BT = ~torch.isclose(rewards_BT, wanted_BT, atol=1e-4, rtol=1e-4)
        if self._any(wrong_BT.any()):
            raise FirstBatchError(
                f"rewards: found {int(wrong_BT.sum())} tokens on this process with another reward than expected: the "
                "score on the last kept token, -coefficient x KL on every kept one, 0 at padding"
            )
        for name in ("advantages", "returns", "old_values"):
            if self._any((batch[name][~mask_BT] != 0).any() | ~batch[name].isfinite().all()):
                raise FirstBatchError(f"{name}: found numbers at padding or not finite, expected 0 there")

    def _any(self, found: torch.Tensor) -> bool:
        return bool(self.gather(found.reshape(1).long()).any())

    def _equal(self, what: str, difference_BT, mask_BT, meaning: str) -> None:
        apart_BT = (difference_BT * mask_BT).abs().double()
        found = torch.stack([apart_BT.max(), apart_BT.sum(), mask_BT.sum().double()])
        largest, total, count = self.gather(found[None]).unbind(1)
        measured = (total.sum() / count.sum().clamp(min=1) if self.half else largest.max()).item()
        limit, kind = (HALF_LIMIT, "mean") if self.half else (FLOAT32_LIMIT, "largest")
        if not measured <= limit:  # NaN too
            raise FirstBatchError(
                f"{what}: found a {kind} difference of {measured:.2g}, expected at most {limit:g} {meaning}"
            )
