"""How far apart two runs are."""

from types import SimpleNamespace

import torch


def differences(one: SimpleNamespace, other: SimpleNamespace, keys=("loss", "grad_norm")) -> dict[str, float]:
    """Largest relative difference of each logged number, and largest absolute difference of any weight."""
    assert [row["step"] for row in one.rows] == [row["step"] for row in other.rows]
    assert one.weights.keys() == other.weights.keys()
    pairs = list(zip(one.rows, other.rows, strict=True))
    logged = {key: max(abs(a[key] - b[key]) / max(abs(a[key]), 1e-12) for a, b in pairs) for key in keys}
    apart = max((one.weights[name] - other.weights[name]).abs().max().item() for name in one.weights)
    return logged | {"weights": apart}


def moved(run: SimpleNamespace, start: dict[str, torch.Tensor]) -> float:
    """Largest absolute change of a weight since the start."""
    return max((run.weights[name] - start[name]).abs().max().item() for name in start if name in run.weights)
