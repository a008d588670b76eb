"""The loss of a model of N parameters after D tokens, as a law: Chinchilla's approach 3 (arXiv 2203.15556)."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class LossLaw:
    """L = E + A/N^alpha + B/D^beta, in nats where the losses were."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def predict(self, parameters, tokens) -> np.ndarray:
        """The loss of so many parameters after so many tokens; arrays broadcast."""
        parameters, tokens = np.asarray(parameters, float), np.asarray(tokens, float)
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def exponent(self) -> float:
        """a of N* ∝ C^a, the best size for a budget of C = 6 N D FLOPs."""
        return self.beta / (self.alpha + self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """The parameters and tokens with the lowest loss at 6 N D = flops (Chinchilla, equation 4)."""
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        size = ratio * (flops / 6) ** self.exponent
        return size, flops / 6 / size

    @property
    def numbers(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"exponent": self.exponent}
