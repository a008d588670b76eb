"""The loss of a model of N parameters after D tokens: L = E + A/N^alpha + B/D^beta (Chinchilla, approach 3).

Fitted as there (arXiv 2203.15556, appendix D.3): Huber's loss, summed, of log L, with L as the exponential of a
log-sum-exp, from a grid of many starts (`descent`).

Intervals of the constants are those of the profile likelihood: the values at which the best law is not refused. The
percentiles of a bootstrap cover too little, as E and the powers trade against each other along a bent valley. The
bootstrap over runs is for what is predicted from a law.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from ..sizes.laws import Law
from .descent import Points, huber
from .resampling import interval, redrawn, student

DELTA = 1e-3  # of Huber's loss, Chinchilla's
EFFICIENT = 2.5  # standard deviations: below that Huber's loss is near the absolute one and wastes a third of the runs
CONSTANTS = 5
STEPS_OF_A_PROFILE = 60  # which starts where a quadratic would have its minimum
ROUNDING = 1e-10  # of log L: no residual is known to less, whatever a fit leaves of points without noise
ASKED = np.array([0.7, 1.4, 2, 2.6, 3.5, 6, 12])  # standard errors at which a profile is looked at


@dataclass(frozen=True)
class Fit:
    """A law with what it was fitted on. delta: of Huber's loss as it was used; residuals: log L less the law's."""

    law: Law
    parameters: np.ndarray
    tokens: np.ndarray
    residuals: np.ndarray
    delta: float
    runs: tuple | None = None

    def bootstrap(self, draws: int = 400, seed: int = 0) -> list[Law]:
        """Laws of the same points with other residuals, those of one run together, see `resampling`."""
        points = Points(self.parameters, self.tokens)
        best = points.internal(self.law)
        jacobian = points.jacobian(best[None])[0]
        noise = redrawn(self.residuals, jacobian, self.runs, draws, np.random.default_rng(seed))
        targets = points.log_loss(best[None]) + noise
        ends, _ = points.descend(np.repeat(best[None], draws, 0), targets, self.delta)
        return [points.law(end) for end in ends]

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95% intervals of each constant and of the exponent of the best size, by profile likelihood.

        Errors of points are taken for independent. An end at which no value is refused is 0 or infinite.
        """
        points = Points(self.parameters, self.tokens)
        best = points.internal(self.law)
        free = self.residuals.size - CONSTANTS
        errors = self.residuals * np.sqrt(self.residuals.size / free)  # as large as those of points not fitted on
        inner = max((abs(errors) <= self.delta).mean(), 0.05)
        small = 1 + CONSTANTS / self.residuals.size * (1 - inner) / inner  # Huber's correction for few points, 7.6
        # twice the rise of an M-estimator's objective has this scale (Huber and Ronchetti, Robust Statistics, 13.6)
        scale = max((np.clip(errors, -self.delta, self.delta) ** 2).mean() / inner * small**2, ROUNDING**2)
        jacobian = points.jacobian(best[None])[0]
        covariance = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True) * scale / inner
        limit = float(np.sqrt(f_distribution.ppf(0.95, 1, free)))
        ends = [(name, side) for name in self.law.constants for side in (-1, 1)]
        asked = np.array([self._asked(points, name, side, covariance) for name, side in ends])
        held = [points.held(name, value) for (name, _), values in zip(ends, asked, strict=True) for value in values]
        rows, sides = (np.array(column) for column in zip(*held, strict=True))
        along = rows @ covariance
        starts = best + along * ((sides - rows @ best) / (along * rows).sum(1))[:, None]
        free_ways = np.array([np.linalg.svd(row[None])[2][1:].T for row in rows])
        target = np.repeat(points.log_loss(best[None]) + self.residuals, len(rows), 0)
        _, values = points.descend(starts, target, self.delta, STEPS_OF_A_PROFILE, free_ways)
        rise = values.reshape(asked.shape) - huber(self.residuals[None], self.delta)[0]
        roots = np.sqrt(np.maximum(2 * rise / scale, 0))
        found: dict[str, tuple[float, float]] = {}
        for (name, side), places, root in zip(ends, asked, roots, strict=True):
            end = _crossing(self.law.constants[name], places, root, limit, 0.0 if side < 0 else float("inf"))
            found[name] = (*found.get(name, ()), end)
        return found

    def _asked(self, points: Points, name: str, side: int, covariance: np.ndarray) -> np.ndarray:
        """Values of a constant, further and further to one side of its fit."""
        value = self.law.constants[name]
        row, _ = points.held(name, value)
        away = side * ASKED * np.sqrt(row @ covariance @ row)
        if name == "exponent":
            return np.clip(value + away / (self.law.alpha + self.law.beta), 1e-6, 1 - 1e-6)
        return np.maximum(value + away, 2e-3) if name in ("alpha", "beta") else value * np.exp(np.clip(away, -60, 60))

    def predicted(self, parameters: float, tokens: float, laws: Sequence[Law], seed: int = 0) -> dict[str, float]:
        """The loss of a further run, with the 95% interval of what it will measure: the laws' spread and its noise."""
        rng = np.random.default_rng(seed)
        free = max(len(set(self.runs or range(len(self.residuals)))) - CONSTANTS, 1)
        spread = np.sqrt((self.residuals**2).sum() / max(len(self.residuals) - CONSTANTS, 1)) * student(free)
        log = np.log([law.loss(parameters, tokens) for law in laws])
        low, high = interval(np.exp(log + spread * rng.standard_normal(len(log))))
        return {"loss": float(self.law.loss(parameters, tokens)), "low": float(low), "high": float(high)}


def _crossing(value: float, places: np.ndarray, root: np.ndarray, limit: float, open_end: float) -> float:
    """Where the root of a profile's rise, 0 at the fit, crosses the limit: nearly a line between two places."""
    above = np.flatnonzero(root > limit)
    if not above.size:
        return open_end
    places, root, i = np.concatenate([[value], places]), np.concatenate([[0], root]), above[0]
    return float(places[i] + (limit - root[i]) / (root[i + 1] - root[i]) * (places[i + 1] - places[i]))


def fit(parameters, tokens, losses, runs: Sequence | None = None, delta: float | None = None) -> Fit:
    """Fits the law to points of runs.

    Args:
        parameters, tokens, losses: [points]. runs: whose point each is, for the bootstrap. delta: of Huber's loss on
            log L; None: 1e-3 (Chinchilla), or 2.5 standard deviations of the residuals where that is more.

    Raises:
        ValueError: numbers that are not above 0, fewer than 6 points, or fewer than 3 sizes or token counts, which
            tell no such law from another.
    """
    columns = {"parameters": parameters, "tokens": tokens, "losses": losses}
    columns = {name: np.asarray(column, float) for name, column in columns.items()}
    parameters, tokens, losses = columns.values()
    for name, column in columns.items():
        if column.shape != losses.shape or column.ndim != 1 or not (np.isfinite(column) & (column > 0)).all():
            raise ValueError(f"{name}: found {column.tolist()}, expected {losses.size} finite numbers above 0")
        distinct, least = len(set(column.tolist())), 6 if name == "losses" else 3
        if (column.size if name == "losses" else distinct) < least:
            raise ValueError(f"{name}: found {distinct} that differ, expected at least {least}")
    if runs is not None and len(runs) != losses.size:
        raise ValueError(f"runs: found {len(runs)}, expected {losses.size}")
    points, target = Points(parameters, tokens), np.log(losses)
    used = DELTA if delta is None else delta
    best = points.best(target, used)
    for _ in range(2 if delta is None else 0):  # the first fit passes through some points, and so flatters their spread
        left = target - points.log_loss(best[None])[0]
        spread = 1.4826 * np.median(abs(left)) * np.sqrt(left.size / max(left.size - CONSTANTS, 1))
        used = max(DELTA, EFFICIENT * spread)
        ends, _ = points.descend(best[None], target[None], used)
        best = ends[0]
    residuals = target - points.log_loss(best[None])[0]
    return Fit(points.law(best), parameters, tokens, residuals, float(used), None if runs is None else tuple(runs))
