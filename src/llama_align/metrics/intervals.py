"""Checks of columns and 95% intervals, closed-form so that the same numbers always give the same interval."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

Z95 = 1.959963984540054  # the 97.5% point of the standard normal


def checked(field: str, values: Sequence, expected: str, allowed: Sequence[float] | None = None) -> list[float]:
    """`values` as floats. ValueError, naming the field, when empty, not finite numbers or not among `allowed`."""
    if len(values) == 0:
        raise ValueError(f"{field}: empty, expected {expected}")
    for i, value in enumerate(values):
        number = isinstance(value, (int, float)) or hasattr(value, "__float__")
        if not number or not math.isfinite(value) or (allowed is not None and value not in allowed):
            raise ValueError(f"{field}[{i}]: found {value!r}, expected {expected}")
    return [float(value) for value in values]


def same_length(**columns: Sequence) -> None:
    """ValueError naming the two fields and their lengths unless all columns are equally long."""
    (first, reference), *others = columns.items()
    for name, column in others:
        if len(column) != len(reference):
            raise ValueError(f"{name}: found {len(column)} values, expected {len(reference)} as in {first}")


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share; halves (ties) are allowed and make it wider than needed, never narrower.

    E. B. Wilson, 1927. ValueError when n is not positive.
    """
    if n <= 0:
        raise ValueError(f"n: found {n}, expected a positive count")
    share, z2 = successes / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def matched_pairs(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Interval of (gained - lost) / n over n matched pairs, half a pair added to each of the four cells.

    A. Agresti and Y. Min, 2005. Unlike the plain normal interval its width is never zero, so two models that agree on
    every item of a small test are not called equal beyond doubt. ValueError when n is not positive.
    """
    if n <= 0:
        raise ValueError(f"n: found {n}, expected a positive count")
    b, c, m = gained + 0.5, lost + 0.5, n + 2
    centre = (b - c) / m
    half = Z95 * math.sqrt(b + c - (b - c) ** 2 / m) / m
    return max(-1.0, centre - half), min(1.0, centre + half)


def of_mean(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with the ends of its 95% interval by the normal distribution; infinite ends of a single value."""
    mean = fmean(values)
    half = Z95 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return mean, mean - half, mean + half
