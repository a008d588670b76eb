"""Points as they might have been: a wild bootstrap by run, for laws fitted on few runs.

Runs drawn with replacement leave a ladder without its smallest size in every third draw. Here all points stay and their
residuals change sign, those of one run together: checkpoints of one run err alike (Cameron, Gelbach and Miller, 2008,
"Bootstrap-based improvements for inference with clustered errors").
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import norm, t

WEBB = np.sqrt([0.5, 1.0, 1.5])  # with both signs: six weights of mean 0 and variance 1, for few runs


def redrawn(residuals, jacobian, runs: Sequence | None, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Residuals [draws, points] to be added to what a law predicts.

    Each is widened by what the fit took of it (leverage) and by Student's quantile over the normal one, for as many
    degrees of freedom as there are runs beside the law's parameters.

    Args:
        residuals: [points]. jacobian: [points, parameters], of the law at its fit. runs: whose point each is; None:
            every point is of its own run.
    """
    residuals, jacobian = np.asarray(residuals, float), np.asarray(jacobian, float)
    _, group = np.unique(np.arange(len(residuals)) if runs is None else np.asarray(runs), return_inverse=True)
    count = group.max() + 1
    q, _ = np.linalg.qr(jacobian)
    leverage = np.minimum((q**2).sum(1), 0.99)
    wide = residuals / np.sqrt(1 - leverage) * student(count - jacobian.shape[1])
    weights = rng.choice(np.concatenate([WEBB, -WEBB]), (draws, count))
    return wide * weights[:, group]


def student(free: int) -> float:
    """Student's 97.5% quantile over the normal one, for so many degrees of freedom (at least 1)."""
    return float(t.ppf(0.975, max(free, 1)) / norm.ppf(0.975))


def interval(values, axis: int = 0) -> tuple:
    """The central 95% of draws."""
    low, high = np.quantile(np.asarray(values, float), (0.025, 0.975), axis=axis)
    return low, high
