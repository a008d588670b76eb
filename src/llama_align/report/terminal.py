"""The table of stages for a terminal; plain text when the output goes elsewhere."""

import json
import sys
from collections.abc import Iterator, Mapping
from io import StringIO
from itertools import product
from pathlib import Path
from shutil import get_terminal_size
from typing import TextIO

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..runtime.output import say
from . import benchmarks
from .stages import FORM, stage_rows
from .stages import Table as Rows

_COLOURS = {"better": "green", "worse": "red", "": ""}


def stage_table(metrics: Mapping, plain: bool | None = None, width: int | None = None) -> Table:
    """The rows of an evaluation's metrics.json as a table of `rich`.

    `plain` leaves out box characters and colours; unless told, it is so when standard output is not a terminal. Where
    a `width` is given, what does not fit into it is left out: columns about form, intervals, then both.
    Raises RecordError for a field of the wrong type.
    """
    plain = not sys.stdout.isatty() if plain is None else plain
    rows = stage_rows(metrics)
    content = rows.columns(lambda heading: heading not in FORM)
    tables = [_table(kept, plain, details) for kept, details in product((rows, content), (True, False))]
    if width is None:
        return tables[0]
    console = Console(width=1000)
    order = [tables[0], tables[2], tables[1], tables[3]]
    fits = (table for table in order if Measurement.get(console, console.options, table).minimum <= width)
    shown = next(fits, tables[3])
    if shown is not tables[0]:
        shown.caption, shown.caption_justify = "what there is no room for is in the report", "left"
    return shown


def _table(rows: Rows, plain: bool, details: bool, corner: str = "Stage") -> Table:
    table = Table(box=box.ASCII2 if plain else box.SIMPLE_HEAD)
    table.add_column(corner, no_wrap=True)
    # Text, not markup: a row may be called "[red]"
    lines = [
        [Text(f"{cell.text} {cell.detail * details}".strip(), "" if plain else _COLOURS[cell.mark]) for cell in cells]
        for cells in rows.cells
    ]
    for place, heading in enumerate(rows.headings):
        # headings may be wrapped between words, numbers not at all
        longest = max(map(len, [*(line[place].plain for line in lines), *heading.split()]))
        table.add_column(heading, justify="right", width=None if plain else longest)
    for name, line in zip(rows.names, lines, strict=True):
        table.add_row(Text(name), *line)
    return table


def measured(metrics: Mapping, plain: bool, width: int | None = None) -> Table:
    """What a step measured: rows of an evaluation, benchmarks, or the numbers and words of any other, one a line.

    Raises RecordError as `stage_table` does.
    """
    if isinstance(metrics.get("rows"), list):
        return stage_table(metrics, plain, width)
    if found := list(benchmarks.tables(metrics)):  # a line for each column, of which a terminal has no room for many
        lines = [(heading, cells) for one in found for heading, *cells in zip(one.headings, *one.cells, strict=True)]
        return _table(Rows(found[0].names, *map(list, zip(*lines, strict=True))), plain, True, "Benchmark, %")
    table = Table(box=box.ASCII2 if plain else box.SIMPLE_HEAD)
    table.add_column("Measured", no_wrap=True)
    table.add_column("", justify="right")
    for name, value in numbers(metrics):
        table.add_row(Text(name), Text(value))
    return table


def numbers(metrics: Mapping, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Numbers and words of nested metrics by path, as text; lists, which are curves and bins, are left out."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            shown = {key: one for key, one in value.items() if one or name != "alarms"}  # those that went off
            yield from numbers(shown, f"{prefix}{name}/")
        elif isinstance(value, float):
            yield f"{prefix}{name}", f"{value:.4g}"
        elif isinstance(value, str | int):
            yield f"{prefix}{name}", str(value)


def say_measured(path: Path) -> None:
    """Says what a step's metrics.json has as a table; nothing where there is none, or one of another kind."""
    try:
        metrics = json.loads(path.read_text("utf-8"))
        plain, shown = measured(metrics, True), measured(metrics, False, get_terminal_size().columns)
    except (OSError, ValueError, AttributeError):
        return
    if shown.row_count:  # lists alone are told elsewhere
        say(in_lines(plain), shown)


def in_lines(table: Table) -> str:
    """A plain table as text, as wide as it needs to be, one line for each row."""
    out = StringIO()
    Console(file=out, width=240, force_jupyter=False).print(table)  # in a notebook rich would show it itself
    return out.getvalue().rstrip("\n")


def print_stages(metrics: Mapping, file: TextIO | None = None) -> None:
    """Prints the table; into a file or pipe it is plain and as wide as it needs to be, one line per stage."""
    file = file or sys.stdout
    if file.isatty():
        console = Console(file=file)
        console.print(stage_table(metrics, plain=False, width=console.width))
    else:
        print(in_lines(stage_table(metrics, plain=True)), file=file)
