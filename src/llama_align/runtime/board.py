"""Lines of progress at the foot of a terminal, one for each piece of work, and what is done above them.

Into a file or pipe nothing but whole lines go, without control codes.
"""

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .progress import Standing, clock

BAR = 16  # columns


class Board:
    """A terminal's foot, as a context.

    Args:
        file: standard output unless told. width: columns of the names of what is at work. plain: as into a pipe.
    """

    def __init__(self, file: TextIO | None = None, width: int = 0, plain: bool = False):
        self.file = file or sys.stdout
        self.console = Console(file=self.file, highlight=False, force_jupyter=False)
        # FORCE_COLOR makes rich take a file for a terminal
        self.live = self.console.is_terminal and self.file.isatty() and not plain
        self._width = width
        # what is printed is sent elsewhere by whoever holds this
        kept = {"redirect_stdout": False, "redirect_stderr": False}
        self._foot = Live(console=self.console, auto_refresh=False, transient=True, **kept)

    def __enter__(self) -> "Board":
        if self.live:
            self._foot.start()
            self.console.show_cursor(True)  # which what is killed could not bring back
        return self

    def __exit__(self, *_) -> None:
        if self.live:
            self._foot.stop()

    def say(self, text: str, shown: Any = None) -> None:
        """What stays; a terminal has it in another form, of `rich`, if there is one."""
        if self.live:
            self.console.print(Text(text) if shown is None else shown, soft_wrap=shown is None)
        else:
            print(text, file=self.file, flush=True)

    def show(self, work: Mapping[str, tuple[Standing | None, float]]) -> None:
        """What is at work now, by name: how far it is, where it told, and since how many seconds it runs."""
        if not self.live:
            return
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, min_width=self._width)
        grid.add_column(width=BAR)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        for name, (standing, seconds) in work.items():
            share = standing.share if standing else None
            # a bar that says nothing while there is nothing to say
            bar = Text("") if share is None else ProgressBar(total=1.0, completed=share, width=BAR)
            words = standing.words() if standing else [clock(seconds)]
            grid.add_row(Text(name), bar, Text("  ".join(words)))
        self._foot.update(grid, refresh=True)


class Line:
    """Shows what one process does on a board, as its only line."""

    def __init__(self, board: Board, name: str):
        self.board, self.name = board, name
        self.last: Standing | None = None

    def show(self, standing: Standing) -> None:
        self.last = standing
        self.board.show({self.name: (standing, standing.seconds)})

    def end(self, standing: Standing) -> None:
        self.last = standing
        self.board.show({})

    @property
    def numbers(self) -> str:
        """What was measured last, after a comma."""
        return self.last.numbers if self.last else ""
