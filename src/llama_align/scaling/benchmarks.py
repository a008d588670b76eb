"""A benchmark predicted in two steps (Llama 3, section 3.2.1), beside the direct law.

nll = u + v log10 C                     normalised loss of the right answer, a line in log FLOPs
accuracy = chance + (1 - chance) / (1 + exp(k (nll - x)))
-log accuracy = exp(a + b log10 C)      direct (arXiv 2512.08894)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.optimize import least_squares

from .resampling import interval, redrawn, student

LEAST = 5  # runs: two lines of two numbers each need some left over


@dataclass(frozen=True)
class TwoStep:
    """Both laws of one benchmark. flops, nll, accuracy: [runs]. items: questions; runs: whose point each is."""

    flops: np.ndarray
    nll: np.ndarray
    accuracy: np.ndarray
    items: int
    chance: float
    line: np.ndarray
    sigmoid: np.ndarray
    direct: np.ndarray
    runs: tuple | None = None

    @classmethod
    def fit(
        cls, flops, nll, accuracy, items: int, chance: float, runs: Sequence | None = None, start: Self | None = None
    ) -> Self:
        """Fits both laws by least squares.

        Args:
            flops: of training. nll: of the right answer, e.g. per character. accuracy: share of `items` questions that
                were right. chance: of a guess. start: a fit to start from.

        Raises:
            ValueError: lengths that differ, fewer than 5 runs, accuracies outside [0, 1] or chance outside [0, 1).
        """
        flops, nll, accuracy = (np.asarray(column, float) for column in (flops, nll, accuracy))
        if not flops.shape == nll.shape == accuracy.shape or flops.size < LEAST:
            raise ValueError(
                f"runs: found {flops.shape}, {nll.shape}, {accuracy.shape}, expected as many, at least {LEAST}"
            )
        if not (flops > 0).all() or not np.isfinite(nll).all() or not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise ValueError(
                "flops, nll, accuracy: found some out of bounds, expected FLOPs above 0 and accuracies of 0 to 1"
            )
        if not 0 <= chance < 1 or items < 1:
            raise ValueError(f"chance, items: found {chance}, {items}, expected a share below 1 and questions")
        log = np.log10(flops)
        line = np.polyfit(log, nll, 1)[::-1]
        found = cls(flops, nll, accuracy, items, chance, line, np.zeros(2), np.zeros(2), runs and tuple(runs))
        steep = 4 / max(np.ptp(nll), 1e-3)
        starts = [(steep, nll.mean()), (steep / 4, nll.min()), (steep / 10, nll.min() - np.ptp(nll))]
        starts = [start.sigmoid] if start else starts
        ends = [least_squares(lambda p: found._sigmoid(p, nll) - accuracy, one, x_scale="jac") for one in starts]
        sigmoid = min(ends, key=lambda end: end.cost).x
        # half an item, as no right answer at all has no logarithm
        wrong = -np.log(np.clip(accuracy, 0.5 / items, 1 - 0.5 / items))
        rough = np.polyfit(log, np.log(wrong), 1)[::-1]
        direct = least_squares(lambda p: np.exp(np.clip(p[0] + p[1] * log, -50, 50)) - wrong, rough, x_scale="jac").x
        return replace(found, sigmoid=sigmoid, direct=direct)

    def _sigmoid(self, numbers, nll) -> np.ndarray:
        z = np.clip(numbers[0] * (nll - numbers[1]), -500, 500)
        return self.chance + (1 - self.chance) / (1 + np.exp(z))

    def nll_at(self, flops) -> np.ndarray:
        """Step one."""
        return self.line[0] + self.line[1] * np.log10(flops)

    def accuracy_at(self, nll) -> np.ndarray:
        """Step two."""
        return self._sigmoid(self.sigmoid, nll)

    def direct_at(self, flops) -> np.ndarray:
        """Accuracy by the direct law."""
        return np.exp(-np.exp(np.clip(self.direct[0] + self.direct[1] * np.log10(flops), -50, 50)))

    def unpredictable(self) -> str | None:
        """Why accuracy cannot be predicted, None where it can.

        The sigmoid must fall with the loss, and where the loss is lowest lie above chance by more than 1.96 standard
        errors of one run's questions: all runs answer the same ones, so more runs make chance no surer.
        """
        if self.sigmoid[0] <= 0:
            return "not predictable: accuracy does not rise as the loss of the right answer falls"
        best, error = self.accuracy_at(self.nll.min()), np.sqrt(self.chance * (1 - self.chance) / self.items)
        if best <= self.chance + 1.96 * error:
            return f"not predictable: at best {best:.3f}, not told from chance, {self.chance:.3f} ± {1.96 * error:.3f}"
        return None

    def predict(self, flops: float, draws: int = 400, seed: int = 0) -> dict:
        """What a run of so many FLOPs will measure: `nll`, `two_step` and `direct`, each (value, low, high).

        Intervals go through both steps: each draw has a line of its own, its loss and the noise of a run on it give the
        accuracy by a sigmoid of its own, with the noise of a run on that. `two_step` and `direct` are None where
        accuracy is not predictable, and `why` says so.
        """
        rng, why = np.random.default_rng(seed), self.unpredictable()
        log = np.log10(self.flops)
        line = np.stack([np.ones_like(log), log], 1)
        left = {
            "nll": self.nll - self.nll_at(self.flops),
            "two_step": self.accuracy - self.accuracy_at(self.nll),
            "direct": self.accuracy - self.direct_at(self.flops),
        }
        slopes = {"nll": line, "two_step": self._slopes(self.accuracy_at, self.nll)}
        slopes["direct"] = self.direct_at(self.flops)[:, None] * np.log(self.direct_at(self.flops))[:, None] * line
        noise = {name: redrawn(left[name], slopes[name], self.runs, draws, rng) for name in left}
        free = len(set(self.runs or range(len(log)))) - 2
        spread = {name: np.sqrt((found**2).sum() / (len(log) - 2)) * student(free) for name, found in left.items()}
        found = {"nll": [], "two_step": [], "direct": []}
        for draw in range(draws):
            nll = self.nll_at(self.flops) + noise["nll"][draw]
            by_loss = np.clip(self.accuracy_at(self.nll) + noise["two_step"][draw], 0, 1)
            by_flops = np.clip(self.direct_at(self.flops) + noise["direct"][draw], 0, 1)
            steps = TwoStep.fit(self.flops, self.nll, by_loss, self.items, self.chance, start=self)
            line_again = TwoStep.fit(self.flops, nll, by_flops, self.items, self.chance, start=self)
            loss = line_again.nll_at(flops) + spread["nll"] * rng.standard_normal()
            found["nll"].append(loss)
            found["two_step"].append(steps.accuracy_at(loss) + spread["two_step"] * rng.standard_normal())
            found["direct"].append(line_again.direct_at(flops) + spread["direct"] * rng.standard_normal())
        values = {"nll": self.nll_at(flops), "two_step": self.accuracy_at(self.nll_at(flops))}
        values["direct"] = self.direct_at(flops)
        for name in ("two_step", "direct"):
            found[name] = np.clip(found[name], 0, 1)
        result = {name: tuple(map(float, (values[name], *interval(found[name])))) for name in values}
        return result | ({"two_step": None, "direct": None} if why else {}) | {"why": why}

    def _slopes(self, law, at: np.ndarray) -> np.ndarray:
        """Of the sigmoid by its two numbers [runs, 2]."""
        k, x = self.sigmoid
        part = (law(at) - self.chance) / (1 - self.chance)
        rise = -(1 - self.chance) * part * (1 - part)
        return np.stack([rise * (at - x), -rise * k], 1)
