"""Judges that choose nothing and score what was chosen: reward models kept out of the choice, and the exact judge."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..chat import as_text
from ..data import Prompt, RecordError, Sample
from ..data.records import show
from ..rewards.models import RewardModel
from ..rewards.score_cache import CachedRewards
from ..runtime.processes import Group
from ..sandbox import quality

PREFIX = "heldout/"
EXACT = PREFIX + "exact_judge"


def is_exact(judge: str) -> bool:
    """Whether the exact judge of the sandbox is asked for. Raises ValueError for a name other than sandbox and none."""
    if judge not in ("sandbox", "none"):
        raise ValueError(f"judge: found {judge!r}, expected sandbox or none")
    return judge == "sandbox"


class Judges:
    """Scores by name, each under `heldout/`, so that none is taken for one that chooses.

    Args:
        judge: `sandbox` for the quality (0 to 1) the sandbox's exact judge sees, or `none`. checkpoints: reward models
            by name; only the one score they end in is used. The other arguments are those of `CachedRewards`.

    Raises:
        ValueError: an unknown judge.
    """

    def __init__(
        self,
        judge: str,
        checkpoints: dict[str, str],
        load: Callable[[str], RewardModel],
        threshold: float,
        folder: str | Path,
        size: int,
        group: Group,
        dtype: str = "float32",
    ):
        self.exact = is_exact(judge)
        self.rewards = CachedRewards(checkpoints, load, threshold, folder, size, group, dtype) if checkpoints else None

    @property
    def names(self) -> list[str]:
        """The scores this gives."""
        return [EXACT] * self.exact + ([PREFIX + self.rewards.main] if self.rewards else [])

    @property
    def truncated(self) -> dict[str, int]:
        """Answers that a model truncated, of those scored last."""
        return {PREFIX + name: count for name, count in (self.rewards.truncated if self.rewards else {}).items()}

    def check(self, prompts: Sequence[Prompt | Sample]) -> None:
        """Raises RecordError for the first prompt that the exact judge cannot judge."""
        for number, prompt in enumerate(prompts if self.exact else [], start=1):
            if prompt.task is None:
                messages = prompt.messages if isinstance(prompt, Prompt) else prompt.prompt
                where = f"prompt {number}, {show(messages[-1]['content'])}"
                raise RecordError(where, "task", "nothing", "the task that judge: sandbox reads")

    def __call__(self, samples: Sequence[Sample]) -> dict[str, list[float]]:
        """One score per sample under each of `names`."""
        scores = (
            {EXACT: [float(quality(s.task, as_text(s.completion), s.finished)) for s in samples]} if self.exact else {}
        )
        if self.rewards:
            scores[PREFIX + self.rewards.main] = self.rewards(samples)[self.rewards.main]
        return scores
