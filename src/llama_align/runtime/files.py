"""Text files that are whole or absent."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

STARTED = time.time()  # this process, near enough


def write_text(path: str | Path, text: str) -> None:
    """Writes beside, then renames; what could not be finished is taken away."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, "utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON as `write_text` does; raises ValueError for NaN."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_stale_parts(folder: Path, before: float = STARTED) -> None:
    """Removes unfinished files last written before this run began; a later one may be of another run at work here."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another run was faster
            if part.stat().st_mtime < before:
                part.unlink()
