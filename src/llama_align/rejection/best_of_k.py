"""What to keep of K scored answers per prompt. Pure functions of lists; ties go to the earlier answer."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

GRADE_THRESHOLDS = {"significantly_better": 3.0, "better": 1.5, "slightly_better": 0.5, "negligibly_better": 0.0}


def best_of_k(rewards: Sequence[float]) -> int:
    """Return the index of the highest reward (rejection sampling, Llama 2 section 3.2.3).

    Raises:
        ValueError: there are no rewards, or one is not a number.
    """
    return _ranked(rewards)[0]


def top_share(rewards: Sequence[float], share: float) -> list[int]:
    """Return the indices of the best `share` (above 0, at most 1) of the rewards, best first and at least one.

    Raises:
        ValueError: the share is out of range, there are no rewards, or one is not a number.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, found {share}")
    ranked = _ranked(rewards)
    # 0.1 * 30 is a little above 3
    return ranked[: max(1, math.ceil(round(share * len(ranked), 9)))]


@dataclass(frozen=True)
class GradedPair:
    """Indices of the better and the worse answer, and how clearly the first is better."""

    chosen: int
    rejected: int
    grade: str


def best_against_worst(
    rewards: Sequence[float], thresholds: Mapping[str, float] = GRADE_THRESHOLDS
) -> GradedPair | None:
    """Pair the highest with the lowest reward.

    Args:
        thresholds: grade -> least gap between the two rewards. With a reward model trained on the ranking loss a gap
            of 3, 1.5 and 0.5 is a predicted win rate of 95%, 82% and 62%.

    Returns:
        The pair with the grade of the largest threshold the gap reaches; None if the rewards are all equal or the gap
        reaches no threshold.

    Raises:
        ValueError: there are no rewards, or one is not a number.
    """
    ranked = _ranked(rewards)
    chosen, rejected = ranked[0], ranked[-1]
    gap = rewards[chosen] - rewards[rejected]
    reached = [(least, grade) for grade, least in thresholds.items() if gap >= least]
    return GradedPair(chosen, rejected, max(reached)[1]) if gap > 0 and reached else None


def drop_duplicates(texts: Sequence[Hashable]) -> list[int]:
    """Return the index of the first occurrence of every distinct answer of one prompt."""
    first: dict[Hashable, int] = {}
    for i, text in enumerate(texts):
        first.setdefault(text, i)
    return list(first.values())


def expected_best(
    rewards_PK: Sequence[Sequence[float]], k: int, values_PK: Sequence[Sequence[float]] | None = None
) -> float:
    """Estimate the mean over P prompts of the expected highest reward among k answers, from K >= k of each.

    It averages over all subsets of k answers and so is unbiased for every k, unlike the maximum of the first k
    (Chen et al., 2021, do this for pass@k). Llama 2, figure 7, plots it over k.

    Args:
        values_PK: what to expect of the answer with the highest reward instead, such as another judge's score.

    Raises:
        ValueError: k is not between 1 and the number of answers of every prompt, or there are no prompts.
    """
    return _mean_order_statistic(rewards_PK, k, [k], values_PK)


def expected_median(rewards_PK: Sequence[Sequence[float]], k: int) -> float:
    """The same for the median of k answers (for an even k the mean of the middle two)."""
    return _mean_order_statistic(rewards_PK, k, [(k + 1) // 2, k // 2 + 1])


def _mean_order_statistic(
    rewards_PK: Sequence[Sequence[float]],
    k: int,
    ranks: Sequence[int],
    values_PK: Sequence[Sequence[float]] | None = None,
) -> float:
    """Mean over prompts and `ranks` of the value of the rank-th smallest of k draws without replacement."""
    if not rewards_PK:
        raise ValueError("found no prompts")
    total = 0.0
    for i, (rewards_K, values_K) in enumerate(zip(rewards_PK, values_PK or rewards_PK, strict=True)):
        drawn = len(rewards_K)
        if not 1 <= k <= drawn:
            raise ValueError(f"k must be between 1 and the number of answers: found {k}, prompt {i} has {drawn}")
        ascending = [values_K[j] for j in reversed(_ranked(rewards_K))]
        for rank in ranks:
            total += sum(x * share for x, share in zip(ascending, _shares(drawn, k, rank), strict=True))
    return total / (len(rewards_PK) * len(ranks))


@cache
def _shares(drawn: int, k: int, rank: int) -> list[float]:
    """For each of `drawn` answers in ascending order, the share of subsets of k in which it is the rank-th smallest."""
    # the j-th is the rank-th of a subset that takes rank - 1 below it and k - rank above
    subsets = math.comb(drawn, k)
    return [math.comb(j, rank - 1) * math.comb(drawn - 1 - j, k - rank) / subsets for j in range(drawn)]


def _ranked(rewards: Sequence[float]) -> list[int]:
    if not rewards:
        raise ValueError("found no rewards to choose from")
    for i, reward in enumerate(rewards):
        if math.isnan(reward):
            raise ValueError(f"reward {i} is not a number")
    return sorted(range(len(rewards)), key=lambda i: -rewards[i])
