import itertools
import random
import statistics

import pytest

from llama_align.rejection.best_of_k import (
    GradedPair,
    best_against_worst,
    best_of_k,
    drop_duplicates,
    expected_best,
    expected_median,
    top_share,
)


def test_best_and_top_share():
    assert best_of_k([0.5, 2.0, 2.0, -1.0]) == 1
    assert top_share([0.5, 2.0, 2.0, -1.0], 0.5) == [1, 2]
    assert top_share([0.5, 2.0], 0.01) == [1]
    assert len(top_share([0.0] * 30, 0.1)) == 3
    assert sorted(top_share([3, 1, 2], 1)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("rewards", "pair"),
    [
        ([0.0, 4.0, 1.0], GradedPair(1, 0, "significantly_better")),
        ([0.0, 3.0], GradedPair(1, 0, "significantly_better")),
        ([2.0, 0.0], GradedPair(0, 1, "better")),
        ([0.0, 0.6], GradedPair(1, 0, "slightly_better")),
        ([0.0, 0.1], GradedPair(1, 0, "negligibly_better")),
        ([1.0, 1.0, 1.0], None),
        ([1.0], None),
    ],
)
def test_best_against_worst(rewards, pair):
    assert best_against_worst(rewards) == pair


def test_best_against_worst_with_other_thresholds():
    assert best_against_worst([0, 1], {"better": 2}) is None
    assert best_against_worst([0, 3], {"better": 2, "significantly_better": 5}).grade == "better"


def test_of_duplicates_the_first_stays():
    texts = ["a", "b", "a", "c", "a", "b"]
    assert drop_duplicates(texts) == [0, 1, 3]
    assert drop_duplicates([]) == []


@pytest.mark.parametrize("k", range(1, 8))
@pytest.mark.parametrize(("estimate", "of_subset"), [(expected_best, max), (expected_median, statistics.median)])
def test_expectations_are_means_over_all_subsets(k, estimate, of_subset):
    chance = random.Random(0)
    rewards = [[chance.gauss(0, 1) for _ in range(7)] for _ in range(3)]
    rewards[0][:3] = [1.0, 1.0, 1.0]
    expected = statistics.mean(
        statistics.mean(of_subset(subset) for subset in itertools.combinations(row, k)) for row in rewards
    )
    assert estimate(rewards, k) == pytest.approx(expected)


def test_what_cannot_be_selected_from_is_refused():
    with pytest.raises(ValueError, match="found no rewards"):
        best_of_k([])
    with pytest.raises(ValueError, match="reward 1 is not a number"):
        best_against_worst([0.0, float("nan")])
    with pytest.raises(ValueError, match="share must be above 0 and at most 1, found 0"):
        top_share([1.0], 0)
    with pytest.raises(ValueError, match="found 4, prompt 1 has 3"):
        expected_best([[1, 2, 3, 4], [1, 2, 3]], 4)
    with pytest.raises(ValueError, match="found no prompts"):
        expected_median([], 1)
