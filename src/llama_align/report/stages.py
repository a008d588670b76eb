"""The table of stages, as values ready to print: shared by the page and the terminal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..metrics.functional import paired_difference
from .inputs import pick


@dataclass(frozen=True)
class Cell:
    """A number as text, its interval or other detail, and whether a change is surely for better or worse."""

    text: str = ""
    detail: str = ""
    mark: str = ""  # "better", "worse" or nothing


@dataclass(frozen=True)
class Table:
    headings: list[str]
    names: list[str]
    cells: list[list[Cell]]  # one list per name

    def columns(self, kept: Callable[[str], bool]) -> "Table":
        """The columns whose heading is kept."""
        places = [i for i, heading in enumerate(self.headings) if kept(heading)]
        return Table(
            [self.headings[i] for i in places], self.names, [[cells[i] for i in places] for cells in self.cells]
        )


class Change(NamedTuple):
    """A difference of two shares, with the ends of its interval where they are known."""

    mean: float
    low: float | None
    high: float | None


# columns about the form of answers and the model's language, which the page shows in a table of their own
FORM = ("Perplexity", "No end %", "Repetitive %", "Mean tokens")


def baseline_of(metrics: Mapping, names: list[str]) -> str | None:
    """The row the others are compared with: what the evaluation says, else the first whose name starts with "sft"."""
    named = metrics.get("baseline")
    return named if named in names else next((name for name in names if name.lower().startswith("sft")), None)


def stage_rows(metrics: Mapping, details: Mapping[str, Mapping] | None = None, where: str = "metrics") -> Table:
    """One row per evaluated model, columns without any value left out.

    Differences come from `metrics["differences"]`; a pair it lacks is computed from the per-item verdicts in `details`.
    Raises RecordError, opened by `where`, for a field of the wrong type.
    """
    rows = pick(where, metrics, "rows", "a list of objects", required=True)
    names = [pick(where, row, "row", "text", required=True) for row in rows]
    between = differences(metrics, details or {}, where)
    sft = baseline_of(metrics, names)
    opponents = {pick(where, row, "win_rate.against", "text") for row in rows} - {None}
    against = f" vs {opponents.pop()}" if len(opponents) == 1 else ""
    columns = {
        "Score %": [_percent(where, row, "score.mean", "score.low", "score.high") for row in rows],
        "Change": [_change(between(a, b)) for a, b in zip([None, *names], names, strict=False)],
        f"Change from {sft}": [_change(between(sft, name) if later else None) for name, later in _after(names, sft)],
        "Violations %": [_rate(where, row, "safety.violation_rate") for row in rows],
        "False refusals %": [_rate(where, row, "safety.false_refusal_rate") for row in rows],
        f"Win rate %{against}": [_win_rate(where, row, bool(against)) for row in rows],
        "Perplexity": [_plain(where, row, "perplexity.value", "{:.3g}") for row in rows],
        "No end %": [_rate(where, row, "endings.missing_end") for row in rows],
        "Repetitive %": [_rate(where, row, "endings.repetitive") for row in rows],
        "Mean tokens": [_plain(where, row, "length.mean_tokens", "{:.1f}") for row in rows],
    }
    if names[1:2] and names[0] == sft and len(names) == 2:
        del columns["Change"]  # it would repeat the next column
    kept = {heading: cells for heading, cells in columns.items() if any(cell.text for cell in cells)}
    return Table(list(kept), names, [list(cells) for cells in zip(*kept.values(), strict=True)] or [[] for _ in names])


def family_rows(metrics: Mapping, where: str = "metrics") -> Table:
    """Score by family of tasks, one row per family and one column per model; empty without families."""
    rows = pick(where, metrics, "rows", "a list of objects", required=True)
    by_row = [pick(where, row, "score.by_family", "an object") or {} for row in rows]
    families = sorted({family for found in by_row for family in found})
    return Table(
        headings=[row["row"] for row in rows],
        names=families,
        cells=[[_of_family(where, found, family) for found in by_row] for family in families],
    )


def _of_family(where: str, found: Mapping, family: str) -> Cell:
    if family not in found:
        return Cell()
    place = f"{where}, score.by_family.{family}"
    mean, n = pick(place, found[family], "mean", required=True), pick(place, found[family], "n")
    return Cell(f"{100 * mean:.1f}", f"n = {n}" if n is not None else "")


def _after(names: list[str], start: str | None) -> list[tuple[str, bool]]:
    """Every name, and whether it comes after `start`."""
    return [(name, start is not None and i > names.index(start)) for i, name in enumerate(names)]


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f"[{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _percent(where: str, row: Mapping, value: str, low: str, high: str) -> Cell:
    mean = pick(where, row, value)
    if mean is None:
        return Cell()
    return Cell(f"{100 * mean:.1f}", _interval(pick(where, row, low), pick(where, row, high)))


def _rate(where: str, row: Mapping, path: str) -> Cell:
    return _percent(where, row, path, f"{path}_low", f"{path}_high")


def _win_rate(where: str, row: Mapping, named: bool) -> Cell:
    cell = _percent(where, row, "win_rate.rate", "win_rate.low", "win_rate.high")
    against = pick(where, row, "win_rate.against", "text")
    return Cell(cell.text, f"{cell.detail} vs {against}".strip()) if cell.text and against and not named else cell


def _plain(where: str, row: Mapping, path: str, form: str) -> Cell:
    value = pick(where, row, path)
    return Cell() if value is None else Cell(form.format(value))


def _change(change: Change | None) -> Cell:
    if change is None:
        return Cell()
    sure = change.low is not None and change.high is not None and (change.low > 0 or change.high < 0)
    mark = ("better" if change.mean > 0 else "worse") * sure
    return Cell(f"{100 * change.mean:+.1f}", _interval(change.low, change.high, "+"), mark)


def differences(
    metrics: Mapping, details: Mapping[str, Mapping], where: str
) -> Callable[[str | None, str], Change | None]:
    """A function giving the change of the score from one row to another; None where it is not known."""
    known: dict[tuple[str, str], Change] = {}
    for row in pick(where, metrics, "differences", "a list of objects") or []:
        place = f"{where}, differences"
        pair = tuple(pick(place, row, end, "text", required=True) for end in ("from", "to"))
        mean = pick(place, row, "difference", required=True)
        known[pair] = Change(mean, pick(place, row, "low"), pick(place, row, "high"))

    def items(name: str) -> list:
        place = str(Path(where).with_name(f"{name}.json"))
        return pick(place, details.get(name, {}), "score.items", "a list of 0 and 1") or []

    def between(start: str | None, end: str) -> Change | None:
        if start is not None and (start, end) not in known:
            first, second = items(start), items(end)
            if first and len(first) == len(second):
                result = paired_difference(first, second)
                known[start, end] = Change(result["difference"], result["low"], result["high"])
        return known.get((start, end))

    return between
