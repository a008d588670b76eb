"""Reward models as functions of dialogs: each with its own tokenizer, several combined as in Llama 2."""

from collections.abc import Callable, Iterable, Sequence

import torch

from ..chat import Answer, ControlTokens, Message, encode_answer, render_prompt
from ..sampling.engine import unwrap
from .scoring import RewardScorer


def llama2_reward(
    helpfulness_B: torch.Tensor, safety_B: torch.Tensor, is_safety_prompt_B: torch.Tensor, threshold: float = 0.15
) -> torch.Tensor:
    """Llama 2's combination of two reward models, section 3.2.3, before whitening.

    R_c = R_s if the prompt is a safety prompt or R_s < threshold, else R_h, on the sigmoid scale; then logit(R_c).
    The models' scores are logits already, so logit(sigmoid(score)) is the score itself.

    Args:
        helpfulness_B, safety_B: scores of B answers. is_safety_prompt_B: booleans.
    """
    safety_first_B = is_safety_prompt_B | (torch.sigmoid(safety_B) < threshold)
    return torch.where(safety_first_B, safety_B, helpfulness_B)


def combine(scores: dict[str, list[float]], objectives: Sequence[str | None], threshold: float) -> dict:
    """The scores of each model, and `combined` where `helpfulness` and `safety` are among them."""
    if main_score(scores) != "combined":
        return scores
    helpfulness, safety = (torch.as_tensor(scores[name]) for name in ("helpfulness", "safety"))
    is_safety = torch.tensor(
        [objective == "safety" for objective in objectives], dtype=torch.bool, device=safety.device
    )
    return scores | {"combined": llama2_reward(helpfulness, safety, is_safety, threshold).tolist()}


def main_score(names: Iterable[str]) -> str:
    """The score that decides, of models by these names."""
    names = list(names)
    return "combined" if {"helpfulness", "safety"} <= set(names) else names[0]


class RewardModel:
    """A sequence-classification model with one score, and the tokenizer it was trained with."""

    def __init__(self, model, tokenizer, max_tokens: int = 8192):
        self.tokenizer = tokenizer
        self.tokens = ControlTokens.of(tokenizer)
        self.scorer = RewardScorer(model, self.tokens.pad, max_tokens=max_tokens)

    def score(
        self, prompts: Sequence[list[Message]], answers: Sequence[Answer], finished: Sequence[bool] | None = None
    ) -> list[float]:
        """One score per dialog. An answer that was cut ends without its end of turn, as it was sampled.

        Text can take more tokens than it was sampled as (half a character becomes a whole one): an answer that no
        longer fits the context is scored as far as it does.
        """
        finished = [True] * len(answers) if finished is None else finished
        return self.scorer.score([self.ids(*dialog) for dialog in zip(prompts, answers, finished, strict=True)])

    def ids(self, prompt: list[Message], answer: Answer, finished: bool) -> list[int]:
        """The ids of prompt and answer that `score` scores."""
        return self.encode(prompt, answer, finished)[0]

    def encode(self, prompt: list[Message], answer: Answer, finished: bool) -> tuple[list[int], bool]:
        """The same, and whether the answer was cut to fit the context."""
        ids = render_prompt(self.tokenizer, prompt, self.tokens)
        # of a prompt that leaves no room a token stays, at which the scorer complains
        room = max(unwrap(self.scorer.model).config.max_position_embeddings - len(ids), 1)
        answer_ids = encode_answer(self.tokenizer, answer, self.tokens, finished)
        return ids + answer_ids[:room], len(answer_ids) > room


class RewardModels:
    """Several reward models in one pass; with `helpfulness` and `safety` among them also Llama 2's `combined`.

    Args:
        models: by name. threshold: below this safety probability the safety score decides (Llama 2: 0.15).
    """

    def __init__(self, models: dict[str, RewardModel], threshold: float = 0.15):
        if not models:
            raise ValueError("models: found none, expected at least one reward model by name")
        self.models = models
        self.threshold = threshold

    @classmethod
    def load(cls, paths: dict[str, str], load: Callable[[str], RewardModel], threshold: float = 0.15) -> "RewardModels":
        """Loads each path with `load`."""
        return cls({name: load(path) for name, path in paths.items()}, threshold)

    def __call__(
        self,
        prompts: Sequence[list[Message]],
        answers: Sequence[Answer],
        finished: Sequence[bool] | None,
        rows: Sequence[dict],
    ) -> dict[str, list[float]]:
        """Scores by name; `rows` carry each prompt's `objective`."""
        scores = {name: model.score(prompts, answers, finished) for name, model in self.models.items()}
        return combine(scores, [row.get("objective") for row in rows], self.threshold)

    @property
    def main(self) -> str:
        """The name of the score that decides."""
        return main_score(self.models)
