"""Krippendorff's alpha against published values."""

import numpy as np
import pytest

from llama_align.people.agreement import alpha, alpha_interval, interval, nominal, ordinal

NAN = None
# K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, example C: four observers, twelve units
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
UNITS = [[row[unit] for row in OBSERVERS if row[unit] is not None] for unit in range(12)]


@pytest.mark.parametrize(("metric", "value"), [(nominal, 0.743), (ordinal, 0.815), (interval, 0.849)])
def test_the_published_example(metric, value):
    assert alpha(UNITS, metric) == pytest.approx(value, abs=5e-4)


def test_two_observers_of_two_values():
    """Example A of the same paper: ten units, alpha 0.095."""
    a, b = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert alpha(list(zip(a, b, strict=True)), nominal) == pytest.approx(0.095, abs=5e-4)


def test_agreement_chance_and_nothing_to_disagree_on():
    assert alpha([[1, 1], [4, 4], [-2, -2]]) == 1
    assert alpha([[1, -1], [-1, 1], [1, -1]], nominal) < 0
    assert alpha([]) is None
    assert alpha([[3], [1]]) is None
    assert alpha([[2, 2], [2, 2]]) is None
    assert alpha_interval([[2, 2]]) is None


def test_the_interval_covers_and_narrows():
    """Two raters who give the truth with probability 0.8, else a value at random: 60 and 600 units."""
    rng = np.random.default_rng(0)

    def units(count):
        truth = rng.integers(1, 9, count)
        return [[int(t if rng.random() < 0.8 else rng.integers(1, 9)) for _ in range(2)] for t in truth]

    few, many = units(60), units(600)
    narrow, wide = alpha_interval(many), alpha_interval(few)
    assert narrow[0] < alpha(many) < narrow[1]
    assert wide[0] < alpha(many) < wide[1]
    assert narrow[1] - narrow[0] < (wide[1] - wide[0]) / 2
    assert alpha_interval(few) == wide
