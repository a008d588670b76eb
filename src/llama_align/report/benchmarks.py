"""Scores on benchmarks as the papers' tables: a row per checkpoint, a column per group of tasks, and one per task.

And against the rounds of a programme, where the checkpoints are those of its rounds.
"""

from collections.abc import Iterator, Mapping

from . import figures
from .batches import Point, numbered
from .inputs import Step, pick
from .sections import Picture
from .stages import Cell, Table


def tables(metrics: Mapping, where: str = "metrics") -> Iterator[Table]:
    """The groups, then the tasks, in per cent; nothing where no checkpoint was measured.

    Raises RecordError, opened by `where`, for a field of the wrong type.
    """
    rows = pick(where, metrics, "checkpoints", "a list of objects") or []
    names = [pick(where, row, "name", "text", required=True) for row in rows]
    for part in ("groups", "tasks"):
        found = [pick(where, row, part, "an object") or {} for row in rows]
        columns = {name: one for of_row in found for name, one in of_row.items()}
        if columns:
            cells = [[_cell(f"{where}, {part}.{name}", of_row.get(name)) for name in columns] for of_row in found]
            yield Table([_heading(where, *column) for column in columns.items()], names, cells)


def against_round(step: Step) -> Iterator[Picture]:
    """Groups, then tasks, in per cent with their intervals, of a step of recipe `benchmark`.

    Checkpoints that are no round's are left out.
    """
    found = pick(step.where, step.metrics, "checkpoints", "a list of objects") or []
    rounds = numbered([pick(step.where, row, "name", "text", required=True) for row in found])
    rows = [(rounds[row["name"]], row) for row in found if row["name"] in rounds]
    for part in ("groups", "tasks"):
        lines: dict[str, list[Point]] = {}
        for number, row in rows:
            for name, one in (pick(step.where, row, part, "an object") or {}).items():
                where = f"{step.where}, {part}.{name}"
                value = pick(where, one, "value", required=True)
                low, high = (value if (end := pick(where, one, key)) is None else end for key in ("low", "high"))
                line = pick(where, one, "title", "text") or name.removeprefix("herd_")
                lines.setdefault(line, []).append((number, 100 * value, 100 * low, 100 * high))
        if lines:
            title = f"Benchmarks by {part.removesuffix('s')}, {step.name}"
            yield Picture(title, figures.by_round(title, lines, "%"))


def _heading(where: str, name: str, one: Mapping) -> str:
    metric = pick(where, one, "metric", "text")
    shots = pick(where, one, "shots")
    return f"{name.removeprefix('herd_')}, {metric}, {shots}-shot" if metric else pick(where, one, "title", "text")


def _cell(where: str, found: Mapping | None) -> Cell:
    if found is None:
        return Cell()
    value, error = pick(where, found, "value", required=True), pick(where, found, "stderr")
    shares = {"seen": pick(where, found, "contamination.share"), "cut": pick(where, found, "cut")}
    details = [f"± {100 * error:.1f}"] if error is not None else []
    details += [f"{100 * share:.0f}% {name}" for name, share in shares.items() if share is not None]
    return Cell(f"{100 * value:.1f}", ", ".join(details))
