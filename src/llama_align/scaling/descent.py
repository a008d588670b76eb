"""A law L = E + A/N^alpha + B/D^beta fitted to points: many starts at once, by damped Gauss-Newton steps.

Huber's loss of log L, summed, by weights (iteratively reweighted least squares, Levenberg's damping). From the same
starts it ends no higher than L-BFGS; all descend in one array, which profiles and bootstraps need.
"""

from itertools import product

import numpy as np

from ..sizes.laws import Law

STEPS = 200
LOG_E, LOG_A, LOG_B, ALPHA, BETA = range(5)


class Points:
    """The law at points, its numbers as (log E, log A, log B, alpha, beta) with A and B at the points' middle.

    There log A and alpha are nearly independent; at N = 1, where A stands, one could not move without the other.
    """

    def __init__(self, parameters: np.ndarray, tokens: np.ndarray):
        logs = np.log(parameters), np.log(tokens)
        self.middle = [log.mean() for log in logs]
        self.n, self.d = (log - log.mean() for log in logs)

    def law(self, x: np.ndarray) -> Law:
        a, b = (x[log] + x[power] * m for log, power, m in zip((LOG_A, LOG_B), (ALPHA, BETA), self.middle, strict=True))
        return Law(*map(float, (*np.exp([x[LOG_E], a, b]), x[ALPHA], x[BETA])))

    def internal(self, law: Law) -> np.ndarray:
        a, b = np.log(law.a) - law.alpha * self.middle[0], np.log(law.b) - law.beta * self.middle[1]
        return np.array([np.log(law.e), a, b, law.alpha, law.beta])

    def _terms(self, x: np.ndarray) -> np.ndarray:
        """log of E, A/N^alpha and B/D^beta: [laws, 3, points]."""
        e = np.broadcast_to(x[:, LOG_E, None], (len(x), self.n.size))
        a = x[:, LOG_A, None] - x[:, ALPHA, None] * self.n
        b = x[:, LOG_B, None] - x[:, BETA, None] * self.d
        return np.stack([e, a, b], 1)

    def log_loss(self, x: np.ndarray) -> np.ndarray:
        """log L [laws, points]."""
        return np.logaddexp.reduce(self._terms(x), 1)

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """Of log L by the law's numbers: [laws, points, 5]."""
        terms = self._terms(x)
        share = np.exp(terms - np.logaddexp.reduce(terms, 1)[:, None])
        return np.stack([*np.moveaxis(share, 1, 0), -share[:, 1] * self.n, -share[:, 2] * self.d], -1)

    def held(self, name: str, value: float) -> tuple[np.ndarray, float]:
        """Row and right side of the equation row · x = side that gives a constant this value."""
        e, a, b, alpha, beta = np.eye(5)
        return {
            "E": lambda: (e, np.log(value)),
            "A": lambda: (a + self.middle[0] * alpha, np.log(value)),
            "B": lambda: (b + self.middle[1] * beta, np.log(value)),
            "alpha": lambda: (alpha, value),
            "beta": lambda: (beta, value),
            "exponent": lambda: ((1 - value) * beta - value * alpha, 0.0),
        }[name]()

    def best(self, target: np.ndarray, delta: float) -> np.ndarray:
        """The best end of 240 starts: how much is irreducible, how the rest falls on both terms, their powers."""
        low = target.min()
        grid = product((0.1, 0.4, 0.6, 0.8, 0.95), (0.2, 0.5, 0.8), (0.1, 0.3, 0.6, 1.0), (0.1, 0.3, 0.6, 1.0))
        starts = []
        for share, half, alpha, beta in grid:
            left = max(np.exp(target.mean()) - share * np.exp(low), 1e-6)
            starts.append([low + np.log(share), np.log(half * left), np.log((1 - half) * left), alpha, beta])
        ends, values = self.descend(np.array(starts), np.broadcast_to(target, (len(starts), target.size)), delta, 40)
        first = np.argsort(values)[:8]
        ends, values = self.descend(ends[first], np.broadcast_to(target, (8, target.size)), delta)
        return ends[np.argmin(values)]

    def descend(self, x: np.ndarray, targets: np.ndarray, delta: float, steps: int = STEPS, basis=None) -> tuple:
        """Ends [laws, 5] of a descent from x to targets [laws, points], and Huber's loss there.

        basis: directions [laws, 5, free] in which alone each law may move; None: all.
        """
        basis = np.eye(5)[None] if basis is None else basis
        damping = np.full(len(x), 1e-3)
        left = targets - self.log_loss(x)
        value = huber(left, delta)
        for _ in range(steps):
            jacobian = self.jacobian(x) @ basis
            weighted = jacobian * np.minimum(1, delta / np.maximum(abs(left), 1e-300))[..., None]
            square = np.swapaxes(weighted, 1, 2) @ jacobian
            gradient = np.einsum("sni,sn->si", weighted, left)
            diagonal = np.einsum("sii->si", square) * damping[:, None] + 1e-14
            damped = square + diagonal[..., None] * np.eye(basis.shape[-1])
            step = (basis @ np.linalg.solve(damped, gradient[..., None]))[..., 0]
            tried = x + step / np.maximum(abs(step).max(1, keepdims=True) / 2, 1)
            tried[:, ALPHA:] = np.clip(tried[:, ALPHA:], 1e-3, 5)
            tried[:, :ALPHA] = np.clip(tried[:, :ALPHA], -30, 30)
            new_left = targets - self.log_loss(tried)
            new = huber(new_left, delta)
            good = new <= value
            settled = abs(value - new) <= 1e-10 * value + 1e-26  # 1e-13 of log L, squared: rounding
            x, left = np.where(good[:, None], tried, x), np.where(good[:, None], new_left, left)
            value, damping = np.where(good, new, value), np.clip(np.where(good, damping / 4, damping * 8), 1e-12, 1e8)
            if (settled | (damping >= 1e8)).all():
                break
        return x, value


def huber(left: np.ndarray, delta: float) -> np.ndarray:
    """Summed over the points: the mean would end a search early."""
    size = np.minimum(abs(left), delta)
    return (size * abs(left) - size**2 / 2).sum(1)
