"""What killed writes leave behind."""

import time
from contextlib import suppress
from pathlib import Path

STARTED = time.time()  # this process, near enough


def remove_stale_parts(folder: Path, before: float = STARTED) -> None:
    """Removes unfinished files last written before this run began; a later one may be of another run at work here."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another run was faster
            if part.stat().st_mtime < before:
                part.unlink()
