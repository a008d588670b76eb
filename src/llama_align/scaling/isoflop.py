"""The best size for a budget of FLOPs: parabolas, and N* = k C^a through their minima (Llama 3, section 3.2.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .resampling import interval, redrawn

LEAST = 4  # sizes of a budget: a parabola through three has no residual, and so no interval


class EdgeError(ValueError):
    """A budget whose minimum is not inside its grid of sizes; the message names the budget and the size."""


@dataclass(frozen=True)
class Budget:
    """Runs of one budget of FLOPs, seeds among them: sizes (parameters, counted as the caller counts), losses."""

    flops: float
    sizes: np.ndarray
    losses: np.ndarray

    def minimum(self, losses=None) -> float:
        """The size at the bottom of the parabola of loss in log size.

        Raises:
            EdgeError: the lowest loss is at the smallest or largest size, or the parabola has no bottom between them.
        """
        losses = self.losses if losses is None else losses  # [runs]
        grid = np.unique(self.sizes)
        where = f"budget of {self.flops:.3g} FLOPs"
        if len(grid) < LEAST:
            raise EdgeError(f"{where}: found {len(grid)} sizes, expected at least {LEAST}")
        means = [losses[self.sizes == size].mean() for size in grid]
        lowest = int(np.argmin(means))
        if lowest in (0, len(grid) - 1):
            edge = "smallest" if lowest == 0 else "largest"
            raise EdgeError(
                f"{where}: found its lowest loss, {means[lowest]:.4g}, at the {edge} of its sizes, {grid[lowest]:.3g}, "
                "expected sizes on both sides"
            )
        bend, tilt, _ = np.linalg.lstsq(self.matrix, losses, rcond=None)[0]
        bottom = self._middle - tilt / (2 * bend) if bend > 0 else np.inf
        if not np.log(grid[0]) < bottom < np.log(grid[-1]):
            raise EdgeError(f"{where}: found no bottom of its parabola from {grid[0]:.3g} to {grid[-1]:.3g} parameters")
        return float(np.exp(bottom))

    @property
    def _middle(self) -> float:
        return np.log(self.sizes).mean()

    @property
    def matrix(self) -> np.ndarray:
        """Of the least squares [runs, 3]: squares and values of centred log sizes, ones."""
        x = np.log(self.sizes) - self._middle
        return np.stack([x**2, x, np.ones_like(x)], 1)

    def curve(self, sizes) -> np.ndarray:
        """The parabola's losses at sizes."""
        x = np.log(np.asarray(sizes, float)) - self._middle
        return np.stack([x**2, x, np.ones_like(x)], 1) @ np.linalg.lstsq(self.matrix, self.losses, rcond=None)[0]


@dataclass(frozen=True)
class Frontier:
    """N* = coefficient · C^exponent. minima: budget -> best size; refused: budget -> why; low, high: of the exponent.

    low and high are None where more than one in forty bootstrap draws had no minimum inside its grid.
    """

    coefficient: float
    exponent: float
    minima: Mapping[float, float]
    refused: Mapping[float, str]
    low: float | None
    high: float | None

    def size(self, flops: float) -> float:
        """The best size for a budget."""
        return self.coefficient * flops**self.exponent


def by_budget(flops, sizes, losses) -> list[Budget]:
    """Points [runs] as the budgets that they belong to, the smallest first."""
    flops, sizes, losses = (np.asarray(column, float) for column in (flops, sizes, losses))
    return [Budget(float(one), sizes[flops == one], losses[flops == one]) for one in np.unique(flops)]


def frontier(budgets: Sequence[Budget], draws: int = 400, seed: int = 0) -> Frontier:
    """Best sizes of budgets and the power law through them; budgets with a minimum at their edge are left out by name.

    Raises:
        EdgeError: fewer than two budgets are left, each with why.
    """
    minima, refused = {}, {}
    for budget in budgets:
        try:
            minima[budget.flops] = budget.minimum()
        except EdgeError as error:
            refused[budget.flops] = str(error)
    if len(minima) < 2:
        found = "; ".join(refused.values()) or "no budget"
        raise EdgeError(f"{len(minima)} budgets with a minimum inside their sizes, expected at least 2: {found}")
    coefficient, exponent = _power_law(minima)
    rng, kept = np.random.default_rng(seed), [budget for budget in budgets if budget.flops in minima]
    noisy = []
    for budget in kept:
        fitted = budget.curve(budget.sizes)
        noisy.append(fitted + redrawn(budget.losses - fitted, budget.matrix, None, draws, rng))
    found = []
    for draw in range(draws):
        try:
            again = {b.flops: b.minimum(losses[draw]) for b, losses in zip(kept, noisy, strict=True)}
            found.append(_power_law(again)[1])
        except EdgeError:
            continue
    low, high = map(float, interval(found)) if len(found) > draws * 39 / 40 else (None, None)
    return Frontier(coefficient, exponent, minima, refused, low, high)


def _power_law(minima: Mapping[float, float]) -> tuple[float, float]:
    exponent, log = np.polyfit(np.log(list(minima)), np.log(list(minima.values())), 1)
    return float(np.exp(log)), float(exponent)
