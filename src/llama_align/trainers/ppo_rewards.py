"""What PPO takes as a reward, and the one score per answer it makes of it."""

import math
from collections.abc import Callable, Sequence

import torch

from ..chat import Message
from ..sampling.rewards import RewardModel, RewardModels, llama2_reward

Prompt = list[Message] | str
# (prompts, answers, finished, rows of the prompt data set) -> one score per answer, or several by name
Reward = Callable[
    [Sequence[Prompt], Sequence[str], Sequence[bool], Sequence[dict]], Sequence[float] | dict[str, Sequence[float]]
]


class Scorer:
    """Scores by name of every answer, and `combined`, the one that is optimised.

    Args:
        reward: a function (`Reward`), a reward model with its tokenizer, or several by name. Of two scores,
            `helpfulness` and `safety`, the combined one is Llama 2's.
        threshold: below this safety probability the safety score decides.
    """

    def __init__(self, reward: Reward | RewardModel | dict[str, RewardModel], threshold: float):
        if isinstance(reward, RewardModel):
            reward = {"reward": reward}
        self.reward = RewardModels(reward, threshold) if isinstance(reward, dict) else reward
        self.threshold = threshold

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raises ValueError where prompts are plain text and the reward reads dialogs."""
        if isinstance(self.reward, RewardModels) and any(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(
                "reward: found prompts of plain text, expected conversations; reward models read dialogs (pass a "
                "function to score text)"
            )

    def __call__(self, prompts, answers, finished, rows, device) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Scores [B] by name, and the combined one.

        Raises:
            ValueError: a score missing or not finite, or several of which none is the one to optimise.
        """
        found = self.reward(prompts, answers, finished, rows)
        found = found if isinstance(found, dict) else {getattr(self.reward, "__name__", "reward"): found}
        scores = {name: torch.as_tensor(values, device=device).float() for name, values in found.items()}
        for name, score_B in scores.items():
            if score_B.shape != (len(answers),):
                raise ValueError(f"reward {name}: found {tuple(score_B.shape)}, expected {len(answers)} scores")
            if not score_B.isfinite().all():
                wrong = next(i for i, value in enumerate(score_B.tolist()) if not math.isfinite(value))
                raise ValueError(f"reward {name}: found {score_B[wrong].item()} for {answers[wrong][:60]!r}")
        return scores, self._combined(scores, rows)

    def _combined(self, scores: dict[str, torch.Tensor], rows: Sequence[dict]) -> torch.Tensor:
        if "combined" in scores or len(scores) == 1:
            return scores.get("combined", next(iter(scores.values())))
        if set(scores) != {"helpfulness", "safety"}:
            raise ValueError(f"reward: found scores {', '.join(scores)}, expected one, or 'combined' among them")
        is_safety_B = torch.tensor([row.get("objective") == "safety" for row in rows], device=scores["safety"].device)
        return llama2_reward(scores["helpfulness"], scores["safety"], is_safety_B, self.threshold)
