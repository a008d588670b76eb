"""What data sets gain over a control of as many tokens, paired by seed (after Llama 3, section 3.1.3)."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t

CONTROL = "control"


def gains(losses: np.ndarray, control: np.ndarray) -> dict:
    """What the losses [seeds, targets] are below the control's, by target and on average.

    Returns:
        `mean` and `targets`: mean, and the ends of Student's 95% interval over seeds.
    """
    gain = control - losses
    columns = np.concatenate([gain.mean(1, keepdims=True), gain], 1)
    wide = t.ppf(0.975, len(gain) - 1) * columns.std(0, ddof=1) / np.sqrt(len(gain))
    rows = [[float(m), float(m - w), float(m + w)] for m, w in zip(columns.mean(0), wide, strict=True)]
    return {"mean": rows[0], "targets": rows[1:]}


def on_benchmarks(
    found: Mapping[str, Mapping[str, Mapping]], names: Sequence[str], seeds: Sequence[int]
) -> dict[str, dict[str, dict[str, list]]]:
    """Gains of each data set on each benchmark: `nll`, nats a byte of the right answer, and `accuracy`.

    Args:
        found: of each benchmark, by run `NAME-SEED`, both. names: of data sets, beside runs of `CONTROL`.
    """

    def of(name: str, key: str) -> np.ndarray:
        return np.array([[runs[f"{name}-{seed}"][key] for runs in found.values()] for seed in seeds])

    def by_task(name: str, key: str, sign: int) -> dict[str, list]:
        return dict(zip(found, gains(sign * of(name, key), sign * of(CONTROL, key))["targets"], strict=True))

    return {name: {"nll": by_task(name, "nll", 1), "accuracy": by_task(name, "accuracy", -1)} for name in names}
