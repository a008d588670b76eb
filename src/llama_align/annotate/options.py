"""What a recipe takes in its YAML for annotators that are no people, and the annotator made from it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from ..data import Prompt
from ..recipe import RecipeError, load_reward_model
from ..rewards.models import RewardModels
from .pairs import LEFT_OUT, Annotate, check_tasks, judge_annotator, reward_annotator


@dataclass(kw_only=True)
class AnnotatorOptions:
    noise: float = field(default=0.1, metadata={"help": "of the sandbox's annotators, on a quality of 0 to 1"})
    annotators: int = field(default=1, metadata={"help": "of the sandbox's, how many grade each pair; most decide"})
    leave_out: list[str] = field(
        default_factory=list,
        metadata={"help": "ties: graded no more than negligibly better; disputed: not all annotators agree"},
    )
    reward_models: dict[str, str] = field(
        default_factory=dict, metadata={"help": "checkpoints by name, for annotator: reward"}
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})

    def make_annotator(self, kind: str, dtype: str, seed: int, prompts: Sequence[Prompt]) -> Annotate:
        """The annotator of a kind, sandbox or reward. Raises RecipeError for options that do not fit it."""
        if not set(self.leave_out) <= set(LEFT_OUT):
            raise RecipeError(f"leave_out: found {self.leave_out}, expected some of {', '.join(LEFT_OUT)}")
        if self.annotators > 1 and kind != "sandbox":
            raise RecipeError(f"annotators: found {self.annotators}, expected 1 with annotator {kind}")
        if "disputed" in self.leave_out and self.annotators == 1:
            raise RecipeError("leave_out: found disputed with one annotator, expected annotators: 2 or more")
        if kind == "sandbox":
            check_tasks(prompts)
            if self.noise < 0:
                raise RecipeError(f"noise: found {self.noise}, expected 0 or more")
            return judge_annotator(self.noise, seed, self.annotators, self.leave_out)
        if kind != "reward":
            raise RecipeError(f"annotator: found {kind!r}, expected sandbox, reward or people")
        if not self.reward_models:
            raise RecipeError("reward_models: found none, expected checkpoints by name for annotator: reward")
        load = partial(load_reward_model, dtype=dtype)
        rewards = RewardModels.load(self.reward_models, load, self.safety_threshold)
        return reward_annotator(rewards, self.leave_out)
