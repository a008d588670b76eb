"""Krippendorff's alpha with an interval: how far people agree beyond chance, from 1 (all) over 0 (chance) down.

K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011: observed over expected disagreement, any number of
people, values missing where they may.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

Units = Sequence[Sequence[float]]  # per item, the values that people gave it
DRAWS = 2000


def nominal(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Squared differences of values that are the same or not."""
    return 1.0 - np.eye(len(values))


def ordinal(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Squared differences of ranks: how many values lie between two, half of each end counted."""
    middle = np.cumsum(counts) - counts / 2
    return (middle[:, None] - middle[None, :]) ** 2


def interval(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Squared differences of numbers."""
    return (values[:, None] - values[None, :]) ** 2


Metric = Callable[[np.ndarray, np.ndarray], np.ndarray]


def alpha(units: Units, metric: Metric = ordinal) -> float | None:
    """Krippendorff's alpha; None where nobody could disagree: fewer than two values of one item, or all the same."""
    values, table = _table(units)
    return _alpha(values, table, metric)


def alpha_interval(units: Units, metric: Metric = ordinal, seed: int = 0) -> tuple[float, float] | None:
    """A 95% interval of alpha: items drawn again with replacement, `DRAWS` times. None where there is no alpha.

    Draws in which nobody could disagree are left out.
    """
    values, table = _table(units)
    if _alpha(values, table, metric) is None:
        return None
    rng = np.random.default_rng(seed)
    drawn = (table[rng.integers(len(table), size=len(table))] for _ in range(DRAWS))
    found = [one for rows in drawn if (one := _alpha(values, rows, metric)) is not None]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _table(units: Units) -> tuple[np.ndarray, np.ndarray]:
    """The values in order, and how often each item was given each; items with one value alone are left out."""
    kept = [unit for unit in units if len(unit) > 1]
    values: list[Hashable] = sorted({value for unit in kept for value in unit})
    place = {value: number for number, value in enumerate(values)}
    table = np.zeros((len(kept), len(values)))
    for row, unit in zip(table, kept, strict=True):
        for value in unit:
            row[place[value]] += 1
    return np.array(values, float), table


def _alpha(values: np.ndarray, table: np.ndarray, metric: Metric) -> float | None:
    counts = table.sum(0)
    total = counts.sum()
    if np.count_nonzero(counts) < 2:
        return None
    differ = metric(values, counts)
    each = table.sum(1)
    # pairs of values within an item, each item weighed by one over how many others a value has there
    within = (table / (each - 1)[:, None]).T @ table - np.diag((table / (each - 1)[:, None]).sum(0))
    among = np.outer(counts, counts) - np.diag(counts)
    return float(1 - (total - 1) * (within * differ).sum() / (among * differ).sum())
