"""What a step that chooses a model by held-out prompts found: the name it chose and what it knew of each candidate."""

from collections.abc import Mapping
from typing import Any

from .inputs import Step, is_number, pick
from .labels import pretty
from .stages import Cell, Table


def choice(step: Step) -> tuple[str, Table] | None:
    """The chosen name and the candidates, one row each; None for a step whose metrics.json has no "chosen"."""
    metrics = step.metrics or {}
    if not isinstance(metrics.get("chosen"), str):
        return None
    found = pick(step.where, metrics, "candidates", "a list") or []
    rows = [row if isinstance(row, Mapping) else {"name": str(row)} for row in found]
    cells = [
        {key: cell for name, value in row.items() if name != "name" for key, cell in _cells(name, value)}
        for row in rows
    ]
    headings = list(dict.fromkeys(key for row in cells for key in row))
    names = [pick(f"{step.where}, candidates", row, "name", "text", required=True) for row in rows]
    return metrics["chosen"], Table(headings, names, [[row.get(key, Cell()) for key in headings] for row in cells])


def _cells(name: str, value: Any) -> list[tuple[str, Cell]]:
    """A value as a cell; what has a mean and an interval is one, any other table gives a cell for each of its own."""
    if isinstance(value, Mapping):
        ends = [value.get(key) for key in ("mean", "low", "high")]
        if all(map(is_number, ends)):
            mean, low, high = ends
            return [(pretty(name), Cell(f"{mean:.4g}", f"[{low:.4g}, {high:.4g}]"))]
        return [cell for key, inner in value.items() for cell in _cells(f"{name}/{key}", inner)]
    return [(pretty(name), Cell(f"{value:.4g}" if is_number(value) else str(value)))]
