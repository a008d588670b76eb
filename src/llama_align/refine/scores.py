"""What rules ask of reward models, of a chat checkpoint and of a classifier, each record once."""

from collections.abc import Callable, Sequence
from statistics import pstdev
from typing import Any

from ..chat import Answer
from ..data import Prompt, RecordError, Sample, fitting_prompts
from ..rejection.candidates import prompt_key
from ..rewards.score_cache import CachedRewards
from .asking import Asker, about
from .rows import Row


class Scores:
    """Scores of records.

    Args:
        rewards: reward models, with a cache; asker: a checkpoint; labels: a classifier's; each None where the recipe
            names none. answers: samples to the prompts, for their spread. objective: of records that do not say.
        contexts: tokenizer and tokens of every reward model by name. too_long: of a prompt that leaves a reward model
            no room: `error` or `drop`, which leaves it without a reward.
    """

    def __init__(
        self,
        rewards: CachedRewards | None,
        asker: Asker | None,
        labels: Callable[[Sequence[str]], list[str]] | None,
        answers: Sequence[Sample],
        objective: str,
        contexts: dict[str, tuple[Any, float]],
        too_long: str,
    ):
        self.rewards, self.asker, self.labels, self.answers = rewards, asker, labels, answers
        self.objective, self.contexts, self.too_long = objective, contexts, too_long

    def reward(self, rows: Sequence[Row]) -> dict[str, int]:
        """Puts the reward of every row's answer into `reward`, None where its prompt is too long; counts.

        Raises:
            RecordError: a prompt is too long, and `too_long` is `error`.
        """
        new = [row for row in rows if "reward" not in row.found]
        for row, score in zip(new, self._scored([(row, *row.answer) for row in new]), strict=True):
            row.found["reward"] = score
        return {"without a reward": sum(row.found["reward"] is None for row in rows)}

    def gap(self, rows: Sequence[Row]) -> dict[str, int]:
        """Puts into `gap` by how much a preference's better answer gains on the rejected one; counts as `reward`."""
        counts = self.reward(rows)
        new = [row for row in rows if "gap" not in row.found]
        worse = [(row, row.record.rejected, row.record.rejected_finished is not False) for row in new]
        for row, score in zip(new, self._scored(worse), strict=True):
            both = None not in (score, row.found["reward"])
            row.found["gap"] = row.found["reward"] - score if both else None
        return counts

    def _scored(self, asked: Sequence[tuple[Row, Answer, bool]]) -> list[float | None]:
        samples = [_sample(row, answer, finished, self.objective) for row, answer, finished in asked]
        fits = self._fitting(samples)
        kept = [sample for sample in samples if id(sample) in fits]
        scores = iter(self.rewards(kept)[self.rewards.main] if kept else ())
        return [next(scores) if id(sample) in fits else None for sample in samples]

    def _fitting(self, samples: Sequence[Sample]) -> set[int]:
        """Which of the samples leave every reward model room for a token of the answer."""
        prompts = [Prompt(sample.prompt, sample.objective, source="data") for sample in samples]
        kept = {id(prompt) for prompt in prompts}
        for name, (tokenizer, context) in self.contexts.items() if samples else ():
            try:
                kept &= {id(one) for one in fitting_prompts(prompts, tokenizer, context - 1, self.too_long)[0]}
            except RecordError as error:
                raise RecordError(
                    f"reward_models, {name}: {error.where}", error.field, error.found, error.expected
                ) from error
        return {id(sample) for sample, prompt in zip(samples, prompts, strict=True) if id(prompt) in kept}

    def ask(
        self, name: str, rows: Sequence[Row], question: str, end: str, read: Callable[[str], Any], tokens: int | None
    ) -> dict[str, int]:
        """Puts what is read from the checkpoint's answers into `name`, None where there is nothing; counts."""
        new = [row for row in rows if name not in row.found]
        drawn = self.asker([about(row.dialog, question, end) for row in new], tokens=tokens)
        for row, answers in zip(new, drawn, strict=True):
            said = answers[0].completion if answers else ""
            row.found[name] = read(said) if isinstance(said, str) else None
        return {f"without {name}": sum(row.found[name] is None for row in rows)}

    def spread(self, rows: Sequence[Row]) -> dict[str, int]:
        """Puts into `spread` the standard deviation of the rewards of the answers to a row's prompt; counts.

        None where there are fewer than two. All answers are scored anew by the same reward models.
        """
        samples = [row.record for row in rows] if isinstance(rows[0].record, Sample) else self.answers
        wanted = {prompt_key(row.prompt) for row in rows}
        samples = [sample for sample in samples if prompt_key(sample.prompt) in wanted]
        fits = self._fitting(samples)
        kept = [sample for sample in samples if id(sample) in fits]
        found: dict[str, list[float]] = {}
        for sample, score in zip(kept, self.rewards(kept)[self.rewards.main] if kept else (), strict=True):
            found.setdefault(prompt_key(sample.prompt), []).append(score)
        for row in rows:
            scores = found.get(prompt_key(row.prompt), [])
            row.found["spread"] = pstdev(scores) if len(scores) > 1 else None
        return {"without spread": sum(row.found["spread"] is None for row in rows)}


def _sample(row: Row, answer: Answer, finished: bool, objective: str) -> Sample:
    return Sample(row.prompt, answer, finished, "data", 0.0, 0, {}, row.objective(objective))


def ranks(values: Sequence[float | None]) -> list[float | None]:
    """For each value the share of all that are not above it, in (0, 1]; None stays None."""
    known = sorted(value for value in values if value is not None)
    places = {value: place for place, value in enumerate(known, start=1)}  # of equal ones the last
    return [None if value is None else places[value] / len(known) for value in values]


def mean_rank(rows: Sequence[Row], names: Sequence[str]) -> list[float]:
    """The mean of the ranks by each of the scores that a row has; the least rank there can be where it has none."""
    columns = [ranks([row.found[name] for row in rows]) for name in names]
    found = []
    for values in zip(*columns, strict=True):
        known = [value for value in values if value is not None]
        found.append(sum(known) / len(known) if known else 1 / len(rows))
    return found
