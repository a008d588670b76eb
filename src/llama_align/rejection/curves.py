"""Expected best reward against the number of answers (Llama 2, figures 7 and 8), and the temperature it speaks for."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data import Sample
from ..metrics.intervals import of_mean
from .best_of_k import expected_best, expected_median
from .candidates import reward, takeable

Curve = dict[str, Any]


def best_of_k_curves(
    sampled: Sequence[Sequence[Sample]], answers: int, score: str, heldout: Sequence[str] = ()
) -> list[Curve]:
    """What to expect of the best of k and of the median of k answers, for k up to `answers`, as means over prompts.

    An answer that was cut or is empty can never be taken; it counts as the lowest reward of those that can.

    Args:
        sampled: one list per source, in which the `answers` of a prompt stand together. heldout: scores that nothing is
            chosen by; a curve holds what each gives the answer that `score` chooses, whose fall is the sign of an
            overoptimised reward (Gao et al., 2022).

    Returns:
        Per source {"checkpoint", "temperature", "prompts", "k": [..], "best": [..], "median": [..],
        "heldout": {name: [..]}, "heldout_gain": {name: {"difference", "low", "high"}}}, the last two only where there
        are held-out scores: what the best of all answers is worth over one of them, with its 95% interval over prompts.
    """
    everything = [sample for samples in sampled for sample in samples]
    lowest = min((reward(s, score) for s in everything if takeable(s)), default=0.0)
    ks = steps_to(answers)
    curves = []
    for samples in sampled:
        rewards_PK = _rows([reward(s, score) if takeable(s) else lowest for s in samples], answers)
        curve = {
            "checkpoint": Path(samples[0].checkpoint).name,
            "temperature": samples[0].temperature,
            "prompts": len(rewards_PK),
            "k": ks,
            "best": [round(expected_best(rewards_PK, k), 6) for k in ks],
            "median": [round(expected_median(rewards_PK, k), 6) for k in ks],
        }
        others = {name: _rows([reward(s, name) for s in samples], answers) for name in heldout}
        if others:
            curve["heldout"] = {
                name: [round(expected_best(rewards_PK, k, values_PK), 6) for k in ks]
                for name, values_PK in others.items()
            }
            curve["heldout_gain"] = {name: _gain(rewards_PK, values_PK) for name, values_PK in others.items()}
        curves.append(curve)
    return curves


def overoptimised(curves: Sequence[Curve]) -> list[str]:
    """Alarms: the best of all answers to a prompt is surely worse than any one, under a score that chose nothing."""
    said = []
    for curve in curves:
        for name, gain in curve.get("heldout_gain", {}).items():
            if gain["high"] is not None and gain["high"] < 0:
                source = f"{curve['checkpoint']} at temperature {curve['temperature']:g}"
                span = f"{gain['difference']:.3f} [{gain['low']:.3f}, {gain['high']:.3f}]"
                said.append(
                    f"over-optimised: by {name} the best of {curve['k'][-1]} answers of {source} is worse than one of "
                    f"them: {span}"
                )
    return said


def best_temperature(curves: Sequence[Curve]) -> float:
    """The temperature whose best of all its answers is expected to score highest; of equals the lowest."""
    return max(curves, key=lambda curve: (curve["best"][-1], -curve["temperature"]))["temperature"]


def steps_to(most: int) -> list[int]:
    """Every number up to 8, then 1.5 and 2 times the power of two before, and `most` itself."""
    powers = [2**i for i in range(3, most.bit_length() + 1)]
    steps = {*range(1, 9), *powers, *(power + power // 2 for power in powers), most}
    return sorted(step for step in steps if step <= most)


def _gain(rewards_PK: Sequence[Sequence[float]], values_PK: Sequence[Sequence[float]]) -> dict[str, float | None]:
    pairs = zip(rewards_PK, values_PK, strict=True)
    changes = [expected_best([rewards], len(rewards), [values]) - fmean(values) for rewards, values in pairs]
    found = dict(zip(("difference", "low", "high"), of_mean(changes), strict=True))
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in found.items()}


def _rows(values: Sequence[float], width: int) -> list[Sequence[float]]:
    return [values[i : i + width] for i in range(0, len(values), width)]
