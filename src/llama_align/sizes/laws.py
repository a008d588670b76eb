"""The law of loss against parameters and tokens, L(N, D) = E + A / N^alpha + B / D^beta, and what follows from it.

Chinchilla's third approach (Hoffmann et al., 2022, section 3.3). With C = 6 N D the least loss of a budget, and the
least budget of a loss, are where one per cent more parameters gains as much as one per cent more tokens:

    alpha A / N^alpha = beta B / D^beta
"""

from dataclasses import dataclass

PER_PARAMETER_AND_TOKEN = 6  # FLOPs of training, C = 6 N D (Kaplan et al., 2020, section 2.1); of inference a third
FITTED = (44e6, 16e9)  # parameters of the models that both fits are of (Hoffmann et al., 2022, section 3)


@dataclass(frozen=True)
class Law:
    """Nats per token of a model of N parameters, embeddings among them, on D tokens read once."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float
    name: str = "fitted"

    @property
    def exponent(self) -> float:
        """a of N* ∝ C^a, the best size for a budget of C = 6 N D FLOPs."""
        return self.beta / (self.alpha + self.beta)

    @property
    def constants(self) -> dict[str, float]:
        """As the papers name them, with the exponent that follows from them."""
        found = {"E": self.e, "A": self.a, "B": self.b, "alpha": self.alpha, "beta": self.beta}
        return found | {"exponent": self.exponent}

    def loss(self, parameters, tokens):
        """Nats per token; of numbers or of arrays that broadcast."""
        return self.e + self.a / parameters**self.alpha + self.b / tokens**self.beta

    def tokens_of(self, parameters: float) -> float:
        """The tokens for which a number of parameters is the best use of 6 N D."""
        return (self.beta * self.b / self.alpha / self.a * parameters**self.alpha) ** (1 / self.beta)

    def parameters_of(self, tokens: float) -> float:
        """The parameters for which a number of tokens is the best use of 6 N D."""
        return (self.alpha * self.a / self.beta / self.b * tokens**self.beta) ** (1 / self.alpha)

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the least loss with 6 N D = `flops` (Hoffmann et al., 2022, equation 4)."""
        scale = (self.alpha * self.a / self.beta / self.b) ** (1 / (self.alpha + self.beta))
        parameters = scale * (flops / PER_PARAMETER_AND_TOKEN) ** self.exponent
        return parameters, flops / PER_PARAMETER_AND_TOKEN / parameters

    def cheapest(self, loss: float) -> tuple[float, float]:
        """Parameters and tokens that reach `loss` with the least 6 N D. Raises ValueError where no model reaches it."""
        if loss <= self.e:
            raise ValueError(f"loss: found {loss:g}, expected one above {self.e:g}, the least of {self.name}'s law")
        share = (loss - self.e) / (1 + self.alpha / self.beta)  # A / N^alpha; the rest is B / D^beta
        parameters = (self.a / share) ** (1 / self.alpha)
        return parameters, self.tokens_of(parameters)

    def tokens_to(self, loss: float, parameters: float) -> float | None:
        """Tokens on which a model of this many parameters reaches `loss`; None where it never does."""
        left = loss - self.e - self.a / parameters**self.alpha
        return (self.b / left) ** (1 / self.beta) if left > 0 else None


# Hoffmann et al. (2022), equation 10, rounded as printed: it asks for far more tokens than the paper's own 20 a
# parameter. Besiroglu et al. (2024, "Chinchilla Scaling: A replication attempt") read the runs off a figure of the
# paper, fit them again, and come to the 20
CHINCHILLA = Law(1.69, 406.4, 410.7, 0.34, 0.28, "chinchilla")
REFIT = Law(1.8172, 482.01, 2085.43, 0.3478, 0.3658, "refit")
LAWS = {law.name: law for law in (REFIT, CHINCHILLA)}
