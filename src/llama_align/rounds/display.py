"""What a manager shows of its steps: a line for each at work, and one that stays for each that has ended."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..runtime.board import Board
from ..runtime.progress import EVERY, Standing, read

PROGRESS = ".progress.json"  # in a step's folder while it is at work


class Display:
    """Steps by name on a terminal; line by line where the output goes elsewhere, or where all is shown.

    Args:
        folders: of all steps, in order. verbose: what steps print is shown, and no foot below it.
    """

    def __init__(self, folders: Mapping[str, Path], verbose: bool = False):
        self._folders = folders
        self._titles = {name: f"[{place}/{len(folders)}] {name}" for place, name in enumerate(folders, start=1)}
        self._board = Board(width=max(map(len, self._titles.values()), default=0), plain=verbose)
        self._began: dict[str, float] = {}
        self._shown = 0.0

    def __enter__(self) -> "Display":
        self._board.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self._board.__exit__(*error)

    def say(self, name: str, text: str) -> None:
        """A line about a step."""
        self._board.say(f"{self._titles[name]}: {text}")

    def begin(self, name: str) -> None:
        """A step is about to start."""
        with suppress(OSError):  # of an earlier attempt
            (self._folders[name] / PROGRESS).unlink()
        self._began[name] = time.monotonic()
        if not self._board.live:
            self.say(name, str(self._folders[name]))

    def end(self, name: str) -> str:
        """A step has ended; returns what it measured last, behind a comma."""
        self._began.pop(name, None)
        last = self._standing(name)
        self._show()
        with suppress(OSError):
            (self._folders[name] / PROGRESS).unlink()
        return last.numbers if last else ""

    def watch(self) -> None:
        """Looks how far the steps at work are, now and then."""
        now = time.monotonic()
        if self._board.live and now - self._shown >= EVERY:
            self._shown = now
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        self._board.show({self._titles[n]: (self._standing(n), now - began) for n, began in self._began.items()})

    def _standing(self, name: str) -> Standing | None:
        return read(self._folders[name] / PROGRESS)
