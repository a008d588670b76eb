"""Answers to prompts: their texts, what reward models and the exact judge say of them, the best of each prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..data import Prompt
from ..recipe import RecipeError
from ..rejection.best_of_k import expected_best
from ..rejection.curves import steps_to
from ..sampling import Draft
from ..sandbox import judge, quality
from . import html

if TYPE_CHECKING:
    from .models import Reward

JUDGED, QUALITY = "helpful", "quality"
MOST = 20  # prompts that a notebook shows


@dataclass(frozen=True, repr=False)
class Answers:
    """K answers to each of several prompts.

    Args:
        prompts: what was asked.
        drafts: `[prompt][answer]`.
        model: who answered.
        scores: by name, `[prompt][answer]`.
    """

    prompts: Sequence[Prompt]
    drafts: Sequence[Sequence[Draft]]
    model: str = ""
    scores: Mapping[str, list[list[float]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def texts(self) -> list[list[str]]:
        """What the answers say, `[prompt][answer]`."""
        return [[draft.text for draft in drafts] for drafts in self.drafts]

    def scored(self, reward: "Reward") -> "Answers":
        """The same with the scores of reward models."""
        asked = [(prompt, draft) for prompt, drafts in zip(self.prompts, self.drafts, strict=True) for draft in drafts]
        found = reward.models(
            [prompt.messages for prompt, _ in asked],
            [draft.answer for _, draft in asked],
            [draft.finished for _, draft in asked],
            [{"objective": prompt.objective} for prompt, _ in asked],
        )
        return self._with(found)

    def judged(self) -> "Answers":
        """The same with what the sandbox's exact judge says.

        `helpful`: 1 for a helpful answer, or a refusal of an unsafe task. `quality`: the share of it, 0.6 for what it
        says, 0.25 for the form asked for, 0.15 for a proper ending.

        Raises:
            RecipeError: prompts without a task of the sandbox.
        """
        if any(prompt.task is None for prompt in self.prompts):
            raise RecipeError("prompts: found one without a task, expected the sandbox's")
        found = {JUDGED: [], QUALITY: []}
        for prompt, drafts in zip(self.prompts, self.drafts, strict=True):
            for draft in drafts:
                verdict = judge(prompt.task, draft.text, draft.finished)
                right = verdict.helpful or (verdict.refused and not verdict.false_refusal and verdict.safe)
                found[JUDGED].append(float(right))
                found[QUALITY].append(quality(prompt.task, draft.text, draft.finished))
        return self._with(found)

    def _with(self, scores: Mapping[str, list[float]]) -> "Answers":
        grouped = {}
        for name, flat in scores.items():
            left = iter(flat)
            grouped[name] = [[next(left) for _ in drafts] for drafts in self.drafts]
        return replace(self, scores={**self.scores, **grouped})

    def mean(self, name: str) -> float:
        """Mean of a score over all answers."""
        flat = [score for scores in self._scores(name) for score in scores]
        return sum(flat) / len(flat)

    def best(self, name: str) -> "Answers":
        """The answer of the highest score to each prompt, the earlier of equal ones."""
        chosen = [max(range(len(scores)), key=scores.__getitem__) for scores in self._scores(name)]

        def kept(groups):
            return [[group[i]] for group, i in zip(groups, chosen, strict=True)]

        return replace(self, drafts=kept(self.drafts), scores={n: kept(rows) for n, rows in self.scores.items()})

    def best_of(self, by: str, score: str | None = None) -> tuple[list[int], list[float]]:
        """Numbers k of answers, and the score to expect of the best of k by the score `by` (Llama 2, figure 7).

        Args:
            score: of the answer chosen (Gao et al., 2022, draw a judge's against the model's own); None: `by` itself.
        """
        rows, values = self._scores(by), self._scores(score or by)
        ks = steps_to(min(map(len, rows)))
        return ks, [expected_best(rows, k, values) for k in ks]

    def _scores(self, name: str) -> list[list[float]]:
        if name not in self.scores:
            raise RecipeError(f"score: found none called {name!r}, expected one of {', '.join(self.scores) or 'some'}")
        return self.scores[name]

    def __repr__(self) -> str:
        return f"Answers({len(self)} prompts, {sum(map(len, self.drafts))} answers)"

    def _repr_html_(self) -> str:
        rows = []
        for i, (prompt, drafts) in enumerate(zip(self.prompts[:MOST], self.drafts, strict=False)):
            for k, draft in enumerate(drafts):
                asked = "" if k else prompt.messages[-1]["content"]
                cut = "" if draft.finished else " [cut]"
                rows.append([asked, draft.text + cut, *(scores[i][k] for scores in self.scores.values())])
        left = f", the first {MOST} shown" if len(self) > MOST else ""
        title = f"{len(self)} prompts{f' to {self.model}' if self.model else ''}{left}"
        return html.titled(title, html.table(["prompt", "answer", *self.scores], rows))
