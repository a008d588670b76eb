"""Checkpoints that answer and checkpoints that score."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..chat import Message, as_answer
from ..data import Preference, Prompt, text_ids
from ..metrics.functional import token_perplexity
from ..recipe import EngineSettings, RecipeError, check_checkpoint, check_reward_model, load_reward_model
from ..rewards.models import RewardModels
from ..sampling import SamplingParams
from ..sampling.likelihood import negative_log_likelihood
from ..talk.found import find
from .answers import Answers

Asked = str | list[Message] | Prompt


class Model:
    """A language model that answers dialogs: a checkpoint, an adapter, a name on the Hub, or a run's last model.

    Args:
        place: where it lies, or its name.
        engine: as the recipes' option of this name.
        dtype: likewise.

    Raises:
        RecipeError: no language model.
    """

    def __init__(self, place: str | Path, engine: str = "auto", dtype: str = "auto"):
        found = find(str(place))
        check_checkpoint(found.path, "causal")
        self.path, self.name, self.dtype = found.path, found.name, dtype
        self.sampler = EngineSettings(engine, dtype).sampler(found.path)

    def sample(
        self,
        prompts: Asked | Sequence[Asked],
        k: int = 1,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 128,
        seed: int = 0,
    ) -> Answers:
        """`k` answers to each prompt: texts of a user, dialogs that end with one, or records of prompts."""
        alone = isinstance(prompts, str | Prompt) or (bool(prompts) and isinstance(prompts[0], dict))
        asked = [_prompt(prompt) for prompt in ([prompts] if alone else prompts)]
        params = SamplingParams(k, max_new_tokens, temperature, top_p, seed=seed)
        drafts = self.sampler([prompt.messages for prompt in asked], params, progress=True)
        return Answers(asked, drafts, self.name)

    def perplexity(self, texts: Sequence[str]) -> float:
        """Of documents, each by itself, as recipes/evaluate.py measures it."""
        tokenizer = self.sampler.tokenizer
        model = EngineSettings(dtype=self.dtype).load(self.path, tokenizer)
        return token_perplexity(*negative_log_likelihood(model, text_ids(texts, tokenizer)))["value"]

    def __repr__(self) -> str:
        return f"Model({self.path!r})"


class Reward:
    """Reward models, one alone or several by name; of `helpfulness` and `safety` also Llama 2's `combined`.

    Raises:
        RecipeError: none, or what is no reward model.
    """

    def __init__(self, place: str | Path | None = None, *, dtype: str = "auto", **named: str | Path):
        paths = ({"reward": str(place)} if place is not None else {}) | {n: str(path) for n, path in named.items()}
        if not paths:
            raise RecipeError("reward models: found none, expected one, or several by name")
        for path in paths.values():
            check_reward_model(path)
        self.models = RewardModels.load(paths, partial(load_reward_model, dtype=dtype))

    def score(self, dialogs: Sequence[list[Message]], objective: str | None = None) -> dict[str, list[float]]:
        """Scores by name of dialogs whose last message is the answer."""
        if any(not dialog or dialog[-1].get("role") != "assistant" for dialog in dialogs):
            raise RecipeError("dialogs: found one that does not end with the assistant, expected an answer to score")
        prompts, answers = [dialog[:-1] for dialog in dialogs], [as_answer(dialog[-1]) for dialog in dialogs]
        return self.models(prompts, answers, None, [{"objective": objective}] * len(prompts))

    def gaps(self, pairs: Sequence[Preference]) -> dict[str, list[float]]:
        """Scores by name of the chosen answers less those of the rejected ones."""
        prompts, objectives = [p.prompt for p in pairs], [{"objective": p.objective} for p in pairs]
        sides = (
            ([p.chosen for p in pairs], [p.chosen_finished is not False for p in pairs]),
            ([p.rejected for p in pairs], [p.rejected_finished is not False for p in pairs]),
        )
        chosen, rejected = (self.models(prompts, answers, finished, objectives) for answers, finished in sides)
        return {name: [a - b for a, b in zip(chosen[name], rejected[name], strict=True)] for name in chosen}

    def __repr__(self) -> str:
        return f"Reward({', '.join(self.models.models)})"


def _prompt(asked: Asked) -> Prompt:
    if isinstance(asked, Prompt):
        return asked
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    return Prompt.from_dict({"messages": messages, "objective": "helpfulness"}, "prompts")
