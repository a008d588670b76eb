"""What a stage must show before the next one begins: short context as good as before, every needle found.

As The Llama 3 Herd of Models, section 3.4.2, extends context: "we assess successful adaptation by measuring whether (1)
model performance on short-context evaluations has recovered completely and (2) the model perfectly solves needle in a
haystack tasks up to that length". Knows numbers; nothing of models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import t

from ..data import SourceError
from ..data.records import is_number, show

LEAST_DOCUMENTS = 30  # below, an interval by Student's t leans on differences being normal


class StageError(SourceError):
    """A stage that cannot be trained as it is written."""


@dataclass(frozen=True)
class Gate:
    """Options of a gate.

    needles: probes at least, as many in each cell of the grid. lengths, depths: of the grid, in equal steps up to the
        stage's context and from the beginning of the text to its end. digits: of a key.
    documents: held-out documents, at most, whose first `short` tokens are compared (default: the context of the stage
        before). margin: nats a token that their mean loss may lie above the one before the stage. confidence: of the
        one-sided interval that must end inside the margin.
    portion: tokens trained on when it stays shut (default: the stage's). portions: how often, at most.
    """

    needles: int = 300
    lengths: int = 5
    depths: int = 10
    digits: int = 5
    documents: int = 256
    short: int | None = None
    margin: float = 0.02
    confidence: float = 0.95
    portion: int | None = None
    portions: int = 2

    @classmethod
    def parse(cls, value: Any, where: str) -> "Gate":
        """The gate that a stage asks for.

        Raises:
            StageError: an unknown key, or a value that is none of what is expected.
        """
        known = {one.name: one.default for one in fields(cls)}
        if not isinstance(value, dict):
            raise StageError(f"{where}: found {show(value)}, expected a mapping, which may be empty")
        for key, found in value.items():
            if key not in known:
                raise StageError(f"{where}: unknown key {key!r}, known: {', '.join(known)}")
            if key == "margin":
                fits, expected = is_number(found) and found > 0, "nats a token above 0"
            elif key == "confidence":
                fits, expected = is_number(found) and 0.5 < found < 1, "a share between 0.5 and 1"
            else:
                least = {"portions": 0, "digits": 1, "documents": LEAST_DOCUMENTS}.get(key, 1)
                fits, expected = type(found) is int and found >= least, f"a whole number of at least {least}"
                fits = fits or (found is None and known[key] is None)
            if not fits:
                raise StageError(f"{where}, key {key!r}: found {show(found)}, expected {expected}")
        return cls(**value)

    @property
    def per_cell(self) -> int:
        """Probes of one length and depth."""
        return math.ceil(self.needles / (self.lengths * self.depths))

    def recovered(self, before: Sequence[float], now: Sequence[float]) -> dict[str, Any]:
        """Whether losses of the same documents, in nats a token, are no more than the margin above those before.

            mean + t(confidence, n - 1) s / sqrt(n) < margin

        of the paired differences, with s their standard deviation.
        """
        differences = np.subtract(now, before)
        mean, n = differences.mean(), len(differences)
        bound = mean + t.ppf(self.confidence, n - 1) * differences.std(ddof=1) / math.sqrt(n)
        said = {"before": np.mean(before), "now": np.mean(now), "difference": mean, "bound": bound}
        limits = {"margin": self.margin, "confidence": self.confidence, "documents": n}
        # a bound that is no number is not within the margin
        found = {"passed": bool(bound < self.margin)} | {name: _number(value) for name, value in said.items()}
        return found | limits | {"differences": [_number(value) for value in differences]}

    def found(self, probes: Sequence, hits: Sequence[bool]) -> dict[str, Any]:
        """How many needles were found, by length and depth, and how many answers though nothing said them."""
        cells: dict[tuple[int, float | None], list[bool]] = {}
        for probe, hit in zip(probes, hits, strict=True):
            cells.setdefault((probe.length, probe.depth), []).append(hit)
        there = {place: cell for place, cell in cells.items() if place[1] is not None}
        guessed = [hit for place, cell in cells.items() if place[1] is None for hit in cell]
        missed = sum(len(cell) - sum(cell) for cell in there.values())
        grid = [
            {"length": length, "depth": depth, "probes": len(cell), "hits": sum(cell)}
            for (length, depth), cell in there.items()
        ]
        return {
            "passed": not missed and not any(guessed),
            "probes": sum(map(len, there.values())),
            "missed": missed,
            "taken_out": {"probes": len(guessed), "hits": sum(guessed)},
            "grid": grid,
        }


def _number(value: float) -> float | None:
    # JSON has no NaN, and a model that gives none must not cost the run its files
    return float(value) if math.isfinite(value) else None
