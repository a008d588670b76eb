"""A reward model on held-out pairs: every score once, then accuracy, calibration, length and distribution."""

from dataclasses import dataclass

from ..data.records import GRADES, OBJECTIVES
from ..metrics.functional import describe, length_correlation, paired_difference, reward_accuracy
from .reward import as_ranking


@dataclass
class ScoredPairs:
    """Scores of all answers with their lengths in tokens, and the pairs as indices of (better, worse)."""

    scores: list[float]
    lengths: list[int]
    pairs: list[tuple[int, int]]
    grades: list[str | None]
    objectives: list[str | None]

    @property
    def chosen(self) -> list[float]:
        return [self.scores[better] for better, _ in self.pairs]

    @property
    def rejected(self) -> list[float]:
        return [self.scores[worse] for _, worse in self.pairs]


def score_pairs(scorer, rows) -> ScoredPairs:
    """Scores rows as a trainer takes them.

    Args:
        scorer: a `RewardScorer`. rows: of `ranking_rows`, or pairs as `chosen_ids` and `rejected_ids`.
    """
    found, answers = ScoredPairs([], [], [], [], []), []
    for row in map(as_ranking, rows):
        first = len(answers)
        answers += row["answers_ids"]
        found.lengths += [len(ids) - row["prompt_length"] for ids in row["answers_ids"]]
        found.pairs += [(first + i, first + j) for i, j in zip(row["better"], row["worse"], strict=True)]
        found.grades += [GRADES[grade] if grade >= 0 else None for grade in row["grade"]]
        known = OBJECTIVES[row["objective"]] if row["objective"] >= 0 else None
        found.objectives += [known] * len(row["better"])
    found.scores = scorer.score(answers)
    return found


def pair_metrics(scored: ScoredPairs) -> dict:
    """Accuracy by grade and objective beside "longer wins", calibration, length correlation, both sides' scores."""
    lengths = ([scored.lengths[pair[side]] for pair in scored.pairs] for side in (0, 1))
    objectives = scored.objectives if all(scored.objectives) else None
    found = reward_accuracy(scored.chosen, scored.rejected, scored.grades, *lengths, objectives=objectives)
    found["length_correlation"] = length_correlation(scored.lengths, scored.scores)
    return found | {"scores": {"chosen": describe(scored.chosen), "rejected": describe(scored.rejected)}}


def no_better_than_length(metrics: dict) -> str | None:
    """What to say of `pair_metrics` where a ruler would rank the pairs as well; None where it would not."""
    longer = metrics["longer_wins"]
    if metrics["accuracy"] > max(longer, 1 - longer):
        return None
    return (
        f"no better than length: {metrics['accuracy']:.1%} of the held-out pairs ranked right, and the longer answer "
        f"is the better one of {longer:.1%}"
    )


def before_and_after(before: ScoredPairs | None, after: ScoredPairs) -> dict:
    """How often a model and the one before it rank the same pairs right (Llama 2, section 3.2.2, batch by batch).

    `gain`: the paired difference of the second from the first; a tie is not right there. `before` None: of one alone.
    """

    def accuracy(scored: ScoredPairs) -> dict:
        found = reward_accuracy(scored.chosen, scored.rejected, scored.grades)
        return {key: found[key] for key in ("accuracy", "low", "high")}

    def right(scored: ScoredPairs) -> list[int]:
        return [int(better > worse) for better, worse in zip(scored.chosen, scored.rejected, strict=True)]

    found = {"pairs": len(after.pairs), "after": accuracy(after)}
    if before is None:
        return found
    return found | {"before": accuracy(before), "gain": paired_difference(right(before), right(after))}
