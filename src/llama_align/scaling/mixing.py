"""The law of a data mix: loss(r) = c + exp(t · r) for each target, from small runs with different mixes.

The form is Olmix's, and that of Data Mixing Laws (arXiv 2403.16952) with its factor in t, as the shares of a mix sum
to 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr

DELTA = 0.02  # of Huber's loss, in nats; Olmix's
FLOORS = (0.05, 0.2, 0.5, 1.0)  # starts: c this much of the losses' range, or nat, below the lowest
ROUNDING = 0.01  # how far a published mix may be from 1


@dataclass(frozen=True)
class MixingLaw:
    """loss = floor + exp(slopes · r). floor: [targets]; slopes: [targets, domains]; single: losses had no targets."""

    floor: np.ndarray
    slopes: np.ndarray
    single: bool = False

    def predict(self, mixtures) -> np.ndarray:
        """Losses [runs, targets] of mixtures [runs, domains]; [runs] where the law was fitted on that."""
        mixtures = shares(mixtures, self.slopes.shape[1])
        found = self.floor + np.exp(mixtures @ self.slopes.T)
        return found[:, 0] if self.single else found

    def gains(self, mixture: Sequence[float]) -> np.ndarray:
        """By domain, what the mean loss falls by per unit of share as that domain grows and the mix shrinks alike."""
        (mixture,) = shares([mixture], self.slopes.shape[1])
        slope = (np.exp(self.slopes @ mixture)[:, None] * self.slopes).mean(0)
        return mixture @ slope - slope

    def propose(self, most: Sequence[float] | None = None) -> np.ndarray:
        """The mix [domains] with the lowest mean loss over the targets.

        Args:
            most: the largest share of each domain, see `epoch_bound`; None: 1.

        Raises:
            ValueError: bounds that sum to less than 1, so that no mix fits.
        """
        domains = self.slopes.shape[1]
        most = np.ones(domains) if most is None else np.minimum(np.asarray(most, float), 1)
        if most.shape != (domains,) or not (most >= 0).all() or most.sum() < 1 - 1e-9:
            raise ValueError(f"most: found {most.round(4).tolist()}, expected {domains} shares that reach 1 together")

        # its logarithm, which steep slopes do not carry away from what the search takes for small
        def loss(mixture):
            rise = self.slopes @ mixture
            return logsumexp(rise), softmax(rise) @ self.slopes

        # convex, so the one minimum is found from anywhere within the bounds
        found = minimize(
            loss,
            most / most.sum(),
            jac=True,
            method="SLSQP",
            bounds=[(0, float(top)) for top in most],
            constraints={"type": "eq", "fun": lambda r: r.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-10, "maxiter": 500},
        )
        mixture = np.clip(found.x, 0, most)
        mixture /= max(mixture.sum(), 1)
        room = most - mixture  # for what rounding left
        return mixture + room * max(1 - mixture.sum(), 0) / max(room.sum(), 1e-300)


@dataclass(frozen=True)
class Proposal:
    """A mix, with 95% intervals over resampled runs of each share and of each gain (`MixingLaw.gains`)."""

    mixture: np.ndarray
    low: np.ndarray
    high: np.ndarray
    gains: np.ndarray
    gains_low: np.ndarray
    gains_high: np.ndarray

    @classmethod
    def of(
        cls, law: MixingLaw, resampled: Iterable[MixingLaw], at: Sequence[float], most: Sequence[float] | None = None
    ) -> Self:
        """The proposal of `law`. resampled: from `bootstrap`; at: the mix that gains start from, e.g. the natural."""
        mixes, gains = map(np.array, zip(*((one.propose(most), one.gains(at)) for one in resampled), strict=True))
        low, high = np.quantile(mixes, (0.025, 0.975), axis=0)
        return cls(law.propose(most), low, high, law.gains(at), *np.quantile(gains, (0.025, 0.975), axis=0))


def shares(mixtures, domains: int | None = None) -> np.ndarray:
    """Mixtures [runs, domains] that sum to exactly 1. Raises ValueError for anything that is no mix."""
    mixtures = np.asarray(mixtures, float)
    if mixtures.ndim != 2 or domains not in (None, mixtures.shape[1]):
        raise ValueError(f"mixtures: found the shape {mixtures.shape}, expected [runs, {domains or 'domains'}]")
    sums = mixtures.sum(1, keepdims=True)
    if not np.isfinite(mixtures).all() or (mixtures < 0).any() or (abs(sums - 1) > ROUNDING).any():
        run = int(np.argmax(~np.isfinite(mixtures).all(1) | (mixtures < 0).any(1) | (abs(sums[:, 0] - 1) > ROUNDING)))
        raise ValueError(f"mixtures: found {mixtures[run].tolist()} as run {run}, expected shares that sum to 1")
    return mixtures / sums


def fit(mixtures, losses, weights=None) -> MixingLaw:
    """Fits c + exp(t · r) to every target by Huber's loss and L-BFGS, from ridge regressions of log(loss - c).

    Args:
        mixtures: shares [runs, domains]. losses: [runs] or [runs, targets]. weights: how often each run counts.

    Raises:
        ValueError: shapes that do not fit each other, shares that sum to something else than 1, losses not finite.
    """
    mixtures, losses = shares(mixtures), np.asarray(losses, float)
    columns = losses[:, None] if losses.ndim == 1 else losses
    if columns.ndim != 2 or len(columns) != len(mixtures) or len(columns) < 2 or not np.isfinite(columns).all():
        raise ValueError(
            f"losses: found the shape {losses.shape}, expected finite numbers, [{len(mixtures)}] or "
            f"[{len(mixtures)}, targets], of at least 2 runs"
        )
    weights = np.ones(len(mixtures)) if weights is None else np.asarray(weights, float)
    found = np.array([_fit_target(mixtures, column, weights) for column in columns.T])
    return MixingLaw(found[:, 0], found[:, 1:], losses.ndim == 1)


def _fit_target(mixtures: np.ndarray, losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(c, t) of one target."""

    def objective(law):
        rise = np.exp(np.clip(mixtures @ law[1:], -50, 50))
        residuals = law[0] + rise - losses
        clipped = np.clip(residuals, -DELTA, DELTA)
        slope = weights * clipped
        value = weights @ (clipped * residuals - clipped**2 / 2)  # Huber's: r²/2 within, δ|r| - δ²/2 outside
        return value, np.concatenate([[slope.sum()], mixtures.T @ (slope * rise)])

    span = np.ptp(losses) or 1.0
    starts = [_ridge(mixtures, losses, weights, losses.min() - part * span) for part in FLOORS]
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-12, "gtol": 1e-8}
    ends = [minimize(objective, start, jac=True, method="L-BFGS-B", options=options) for start in starts]
    return min(ends, key=lambda end: end.fun).x


def _ridge(mixtures, losses, weights, floor: float, strength: float = 0.05) -> np.ndarray:
    rise = np.log(losses - floor)
    mean = np.average(rise, weights=weights)
    square = mixtures.T @ (weights[:, None] * mixtures) + strength * np.eye(mixtures.shape[1])
    # shrunk towards a law in which all domains are alike
    return np.concatenate([[floor], mean + np.linalg.solve(square, mixtures.T @ (weights * (rise - mean)))])


def bootstrap(mixtures, losses, draws: int = 200, seed: int = 0) -> Iterator[MixingLaw]:
    """Laws of runs drawn anew with replacement, for intervals of whatever is made of a law; each takes seconds."""
    rng, runs = np.random.default_rng(seed), len(mixtures)
    for _ in range(draws):
        yield fit(mixtures, losses, rng.multinomial(runs, np.full(runs, 1 / runs)))


def linear(mixtures, losses) -> np.ndarray:
    """Least squares of losses [runs] or [runs, targets] on shares: the yardstick. Slopes [domains(, targets)]."""
    return np.linalg.lstsq(shares(mixtures), np.asarray(losses, float), rcond=None)[0]


def rank_correlation(predicted, measured) -> float:
    """Spearman's of two lists of losses; 0 where one of them is constant and ranks nothing."""
    predicted, measured = np.asarray(predicted, float), np.asarray(measured, float)
    return 0.0 if np.ptp(predicted) == 0 or np.ptp(measured) == 0 else float(spearmanr(predicted, measured)[0])


def epoch_bound(available: Sequence[float], budget: float, epochs: float) -> np.ndarray:
    """The largest share of each domain such that none is read more than `epochs` times within the budget of tokens."""
    return np.minimum(epochs * np.asarray(available, float) / budget, 1.0)
