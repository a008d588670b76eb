"""The table of stages for a terminal; plain text when the output goes elsewhere."""

import sys
from collections.abc import Mapping
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .stages import stage_rows

_COLOURS = {"better": "green", "worse": "red", "": ""}


def stage_table(metrics: Mapping, plain: bool | None = None) -> Table:
    """The rows of an evaluation's metrics.json as a table of `rich`.

    `plain` leaves out box characters and colours; unless told, it is so when standard output is not a terminal.
    Raises RecordError for a field of the wrong type.
    """
    plain = not sys.stdout.isatty() if plain is None else plain
    rows = stage_rows(metrics)
    table = Table(box=box.ASCII2 if plain else box.SIMPLE_HEAD)
    table.add_column("Stage", no_wrap=True)
    for heading in rows.headings:
        table.add_column(heading, justify="right")
    for name, cells in zip(rows.names, rows.cells, strict=True):
        # Text, not markup: a row may be called "[red]"
        line = [Text(f"{cell.text} {cell.detail}".strip(), "" if plain else _COLOURS[cell.mark]) for cell in cells]
        table.add_row(Text(name), *line)
    return table


def print_stages(metrics: Mapping, file: TextIO | None = None) -> None:
    """Prints the table; into a file or pipe it is plain and as wide as it needs to be, one line per stage."""
    file = file or sys.stdout
    console = Console(file=file, width=None if file.isatty() else 240)
    console.print(stage_table(metrics, plain=not console.is_terminal))
