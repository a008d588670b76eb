"""Expected best rewards are means over subsets, whatever could not be taken counts as the worst, and the best wins."""

import itertools
import random
import statistics

import pytest

from llama_align.data import Sample
from llama_align.rejection.best_of_k import expected_best
from llama_align.rejection.curves import best_of_k_curves, best_temperature, overoptimised, steps_to


def samples(scores_PK: list[list[float]], temperature: float = 1.0, others: list[list[float]] | None = None):
    return [
        Sample(
            prompt=[{"role": "user", "content": f"p{p}"}],
            completion=f"a{i}",
            finished=True,
            checkpoint="runs/sft",
            temperature=temperature,
            seed=0,
            rewards={"r": score, "heldout/j": others[p][i] if others else 0.0},
            objective="helpfulness",
        )
        for p, scores in enumerate(scores_PK)
        for i, score in enumerate(scores)
    ]


def test_a_curve_is_the_mean_over_all_subsets():
    chance = random.Random(0)
    scores = [[chance.gauss(0, 1) for _ in range(5)] for _ in range(3)]
    others = [[chance.gauss(0, 1) for _ in range(5)] for _ in range(3)]
    (curve,) = best_of_k_curves([samples(scores, 0.7, others)], 5, "r", ["heldout/j"])
    assert {name: curve[name] for name in ("checkpoint", "temperature", "prompts", "k")} == {
        "checkpoint": "sft",
        "temperature": 0.7,
        "prompts": 3,
        "k": [1, 2, 3, 4, 5],
    }
    for k in range(1, 6):
        subsets = [list(itertools.combinations(range(5), k)) for _ in scores]
        best = [statistics.mean(max(row[i] for i in s) for s in ss) for row, ss in zip(scores, subsets, strict=True)]
        middle = [
            statistics.mean(statistics.median(row[i] for i in s) for s in ss)
            for row, ss in zip(scores, subsets, strict=True)
        ]
        judged = [
            statistics.mean(other[max(s, key=row.__getitem__)] for s in ss)
            for row, other, ss in zip(scores, others, subsets, strict=True)
        ]
        assert curve["best"][k - 1] == pytest.approx(statistics.mean(best), abs=1e-6)
        assert curve["median"][k - 1] == pytest.approx(statistics.mean(middle), abs=1e-6)
        assert curve["heldout"]["heldout/j"][k - 1] == pytest.approx(statistics.mean(judged), abs=1e-6)


def test_a_judge_that_finds_the_best_surely_worse_than_one_answer_is_an_alarm():
    chance = random.Random(0)
    scores = [[chance.gauss(0, 1) for _ in range(4)] for _ in range(50)]
    for sign, alarms in ((-1, 1), (1, 0)):
        others = [[sign * score + chance.gauss(0, 1) for score in row] for row in scores]
        curves = best_of_k_curves([samples(scores, 0.5, others)], 4, "r", ["heldout/j"])
        gain, heldout = curves[0]["heldout_gain"]["heldout/j"], curves[0]["heldout"]["heldout/j"]
        assert gain["difference"] == pytest.approx(heldout[-1] - heldout[0], abs=2e-6)
        changes = [
            other[row.index(max(row))] - statistics.mean(other) for row, other in zip(scores, others, strict=True)
        ]
        half = 1.96 * statistics.stdev(changes) / 50**0.5
        assert gain["high"] - gain["low"] == pytest.approx(2 * half, rel=1e-3)
        assert len(overoptimised(curves)) == alarms
    assert overoptimised(best_of_k_curves([samples(scores, 0.5, others)], 4, "r")) == []
    one = best_of_k_curves([samples(scores[:1], 0.5, [[4.0, 3.0, 2.0, 1.0]])], 4, "r", ["heldout/j"])
    assert one[0]["heldout_gain"]["heldout/j"]["low"] is None, "one prompt has no interval"
    assert overoptimised(one) == []


def test_the_estimate_is_unbiased():
    chance = random.Random(1)
    drawn = [[chance.gauss(0, 1) for _ in range(8)] for _ in range(4000)]
    assert expected_best(drawn, 2) == pytest.approx(0.5642, abs=0.02), "of two normal numbers 1/sqrt(pi)"


def test_what_cannot_be_taken_counts_as_the_lowest_of_what_can():
    from dataclasses import replace

    low = samples([[-5.0, -4.0]], 0.5)
    high = samples([[9.0, 1.0]], 1.5)
    high[0] = replace(high[0], finished=False)
    curves = best_of_k_curves([low, high], 2, "r")
    assert curves[1]["best"] == [-2.0, 1.0], "(-5 + 1) / 2, then 1"
    high[1] = replace(high[1], completion=" ")
    assert best_of_k_curves([low, high], 2, "r")[1]["best"] == [-5.0, -5.0]
    assert "heldout" not in curves[0]


def test_the_temperature_with_the_highest_best_of_k_wins():
    narrow, wide = samples([[1.0, 1.0]], 0.3), samples([[-3.0, 2.0]], 1.2)
    assert best_temperature(best_of_k_curves([narrow, wide], 2, "r")) == 1.2
    assert best_temperature(best_of_k_curves([wide, narrow], 2, "r")) == 1.2
    same = samples([[2.0, -9.0]], 0.9)
    assert best_temperature(best_of_k_curves([wide, same], 2, "r")) == 0.9, "of equals the lowest"


def test_the_steps_of_a_curve():
    assert steps_to(1) == [1]
    assert steps_to(5) == [1, 2, 3, 4, 5]
    assert steps_to(30) == [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 30]
    assert steps_to(100)[-4:] == [48, 64, 96, 100]
