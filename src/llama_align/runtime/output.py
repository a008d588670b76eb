"""Where words go: what is for the user to the terminal, what libraries say to a log."""

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

TAIL = 20  # lines of a log that a crash shows

_heard: Callable[[str, Any], None] | None = None


def say(text: object, shown: Any = None) -> None:
    """A few words for the user: printed, and shown on the terminal where what is printed goes to a log.

    Args:
        shown: how a terminal shows it, of `rich`; None: as it is.
    """
    print(text, flush=True)
    if _heard is not None:
        _heard(str(text), shown)


@contextmanager
def heard_by(one: Callable[[str, Any], None]) -> Iterator[None]:
    """Has what is said told to one, besides."""
    global _heard
    before, _heard = _heard, one
    try:
        yield
    finally:
        _heard = before


@contextmanager
def into(log: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Sends all that is printed by this process and those it starts to the end of a file, from below Python.

    Yields the standard output and error there were. A crash of the interpreter itself is told on the latter.

    Raises:
        OSError: the file cannot be written.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        file = stack.enter_context(log.open("ab"))
        kept = [os.dup(number) for number in (1, 2)]
        out, error = (
            stack.enter_context(os.fdopen(number, "w", encoding=stream.encoding, errors="replace"))
            for number, stream in zip(kept, (sys.__stdout__, sys.__stderr__), strict=True)
        )
        _flush()
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        # Python's own may be somebody's else than 1 and 2
        logged = stack.enter_context(os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8", errors="replace"))
        stack.enter_context(redirect_stdout(logged))
        stack.enter_context(redirect_stderr(logged))
        watched = faulthandler.is_enabled()
        if not watched:
            faulthandler.enable(error)
        try:
            yield out, error
        finally:
            _flush()
            if not watched:
                faulthandler.disable()
            for number, stream in ((1, out), (2, error)):
                stream.flush()
                os.dup2(stream.fileno(), number)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def tail(log: Path, lines: int = TAIL) -> str:
    """The end of a log, with bars of progress as they were last."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - (1 << 16)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    shown = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return "\n".join([line for line in shown if line][-lines:])
