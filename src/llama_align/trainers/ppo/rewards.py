"""What PPO takes as a reward, and the one score per answer it makes of it."""

import math
from collections.abc import Callable, Sequence

import torch

from ...chat import Answer, Message, as_text
from ...rewards.models import RewardModel, RewardModels, combine

Prompt = list[Message] | str
# (prompts, answers as text, finished, rows of the prompt data set) -> one score per answer, or several by name
Reward = Callable[
    [Sequence[Prompt], Sequence[str], Sequence[bool], Sequence[dict]], Sequence[float] | dict[str, Sequence[float]]
]


class Scorer:
    """Scores by name of every answer, and `combined`, the one that is optimised.

    That is the score where there is one, or what a function returns as `combined`. Of several it is the sum, in which
    Llama 2's combination (`llama2_reward`) stands for `helpfulness` and `safety` where both are among them. A weight is
    a matter of the function: `{"style": [0.1 * s for s in ..], ..}`.

    Args:
        reward: a function (`Reward`), a reward model with its tokenizer, or several by name.
        threshold: below this safety probability the safety score decides.
    """

    def __init__(self, reward: Reward | RewardModel | RewardModels | dict[str, RewardModel], threshold: float):
        if isinstance(reward, RewardModels):
            reward = reward.models
        if isinstance(reward, RewardModel):
            reward = {"reward": reward}
        self.reward = RewardModels(reward, threshold) if isinstance(reward, dict) else reward
        if not callable(self.reward):
            raise ValueError(f"reward: found {type(reward).__name__}, expected a function or reward models by name")
        self.threshold = threshold

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raises ValueError where prompts are plain text and the reward reads dialogs."""
        if isinstance(self.reward, RewardModels) and any(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(
                "reward: found prompts of plain text, expected conversations; reward models read dialogs (pass a "
                "function to score text)"
            )

    def __call__(
        self, prompts, answers: Sequence[Answer], finished, rows, device
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Scores [B] by name, and the combined one. A function reads the text of an answer, calls of tools included.

        Raises:
            ValueError: a score missing or not finite.
        """
        if not isinstance(self.reward, RewardModels):
            answers = [as_text(answer) for answer in answers]
        found = self.reward(prompts, answers, finished, rows)
        found = dict(found) if isinstance(found, dict) else {getattr(self.reward, "__name__", "reward"): found}
        if isinstance(self.reward, RewardModels):
            found.pop("combined", None)  # of two of them, however many there are
        scores = {name: torch.as_tensor(values, device=device).float() for name, values in found.items()}
        for name, score_B in scores.items():
            if score_B.shape != (len(answers),):
                raise ValueError(f"reward {name}: found {tuple(score_B.shape)}, expected {len(answers)} scores")
            if not score_B.isfinite().all():
                wrong = next(i for i, value in enumerate(score_B.tolist()) if not math.isfinite(value))
                raise ValueError(f"reward {name}: found {score_B[wrong].item()} for {as_text(answers[wrong])[:60]!r}")
        return scores, self._combined(scores, rows)

    def _combined(self, scores: dict[str, torch.Tensor], rows: Sequence[dict]) -> torch.Tensor:
        if "combined" in scores:
            return scores["combined"]
        # the rule of reward models; it reads the threshold alone
        found = combine(scores, [row.get("objective") for row in rows], self.threshold)
        parts = {"combined"} | (scores.keys() - {"helpfulness", "safety"}) if "combined" in found else scores.keys()
        device = next(iter(scores.values())).device
        return sum(torch.as_tensor(found[name], device=device) for name in sorted(parts))
