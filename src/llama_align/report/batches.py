"""Batches of preferences by round: what annotators made of them, and reward models before and after the newest one."""

import re
from collections.abc import Sequence

from .inputs import Step, pick
from .stages import Cell, Table

SAFETY = {"chosen_only": "Chosen safe only %", "both": "Both safe %", "neither": "Neither safe %"}
HEADINGS = ("Pairs", "Left out", "Agreement %", "Right %", *SAFETY.values())
Point = tuple[int, float, float, float]  # round, value, its interval
OF_ROUND = re.compile(r"(.+)-(\d+)")


def numbered(names: Sequence[str]) -> dict[str, int]:
    """Names of one step's rounds, as best-3, and which round each is."""
    found = {name: OF_ROUND.fullmatch(name) for name in names}
    heads = [match[1] for match in found.values() if match]
    return {name: int(match[2]) for name, match in found.items() if match and heads.count(match[1]) > 1}


def batches(steps: Sequence[Step]) -> Table:
    """A row for every batch of preferences that annotators graded."""
    found = [step for step in steps if step.recipe == "annotate" and step.metrics]
    return Table(list(HEADINGS), [step.name for step in found], [_cells(step) for step in found])


def _cells(step: Step) -> list[Cell]:
    def share(path: str, of: float = 1.0) -> Cell:
        value = pick(step.where, step.metrics, path)
        return Cell() if value is None or not of else Cell(f"{100 * value / of:.1f}")

    pairs = pick(step.where, step.metrics, "preferences")
    left = pick(step.where, step.metrics, "left_out", "an object")
    why = ", ".join(f"{count} {reason}" for reason, count in (left or {}).items())
    said = pairs and pairs - (pick(step.where, step.metrics, "safety.unsaid") or 0)
    return [
        Cell() if pairs is None else Cell(f"{pairs:,.0f}"),
        Cell() if left is None else Cell(str(sum(left.values())), why),
        share("agreement"),
        share("right"),
        *(share(f"safety.{key}", said or 0) for key in SAFETY),
    ]


def on_newest(steps: Sequence[Step]) -> dict[str, list[Point]]:
    """How often reward models rank held-out pairs of the newest batch right, before and after training on it."""
    lines: dict[str, list[Point]] = {}
    for step in (step for step in steps if step.recipe == "reward" and step.metrics):
        for when in ("before", "after"):
            three = [pick(step.where, step.metrics, f"newest.{when}.{key}") for key in ("accuracy", "low", "high")]
            if None not in three:
                point = (step.round, *(100 * value for value in three))
                lines.setdefault(f"{step.of}, {when}", []).append(point)
    return lines
