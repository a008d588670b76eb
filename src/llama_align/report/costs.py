"""Tokens, hours and an estimate of cost of every step of a run, summed over its rounds."""

from collections.abc import Sequence

from .inputs import Step, pick
from .stages import Cell, Table


def costs(steps: Sequence[Step], price: float | None) -> Table:
    """A row for every step by its name in the plan, and one for all.

    Args:
        price: of an hour of whatever runs a step, in any currency; None leaves the column out. Of steps at work at once
            each is counted in full.
    """
    rows: dict[str, list[Step]] = {}
    for step in steps:
        if step.seconds is not None:
            rows.setdefault(step.of or step.name, []).append(step)
    named = [*rows.items(), ("all", [step for found in rows.values() for step in found])]
    headings = ["Times run", "Tokens trained on", "Hours", *(["Cost"] if price is not None else [])]
    return Table(headings, [name for name, _ in named], [_cells(found, price) for _, found in named])


def _cells(steps: Sequence[Step], price: float | None) -> list[Cell]:
    hours = sum(step.seconds for step in steps) / 3600
    tokens = [count for step in steps if (count := _tokens(step)) is not None]
    cells = [Cell(str(len(steps))), Cell(f"{sum(tokens):,.0f}" if tokens else ""), Cell(f"{hours:.3f}")]
    return cells if price is None else [*cells, Cell(f"{price * hours:,.2f}")]


def _tokens(step: Step) -> float | None:
    """Tokens that a trainer counted by its end; None where it counts none."""
    counts = [pick(str(step.directory / "log.jsonl"), row, "num_tokens") for row in step.log]
    return max((count for count in counts if count is not None), default=None)
