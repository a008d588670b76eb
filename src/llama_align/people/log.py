"""What people did, line by line: on the disk before it is acknowledged, and never changed afterwards."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..recipe import RecipeError
from ..runtime.files import naming
from .batch import FOLDER

LOG, LOCK = "log.jsonl", ".serving"


class Log:
    """The log of a batch, held by one process. What a kill left of a line nobody was told was kept, and it is cut off.

    Raises:
        RecipeError: another process serves this batch.
    """

    def __init__(self, folder: Path):
        place = Path(folder) / FOLDER
        self._lock = (place / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"{folder}: another process serves this batch, expected one at a time") from error
        self.path = place / LOG
        made = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._file = os.fdopen(made, "ab", buffering=0)
        self._file.truncate(whole_bytes(self.path))
        self.number = sum(1 for _ in events(folder))
        _sync(place)

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Writes an event and returns it when it is on the disk.

        Raises:
            OSError: the disk is full or refuses; nothing was kept.
        """
        event = {"n": self.number + 1, "at": round(time.time(), 3), "kind": kind, **fields}
        line = (json.dumps(event, ensure_ascii=False) + "\n").encode()
        before = os.fstat(self._file.fileno()).st_size
        try:
            with naming(self.path):
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(before)
            raise
        self.number += 1
        return event

    def close(self) -> None:
        """Lets another process serve the batch."""
        self._file.close()
        self._lock.close()


def whole_bytes(path: Path) -> int:
    """How much of a log is whole lines."""
    return path.read_bytes().rfind(b"\n") + 1


def events(folder: Path) -> Iterator[dict[str, Any]]:
    """What is in the log of a step's folder, in order; nothing where there is none yet.

    Raises:
        RecipeError: a line that is not as it was written.
    """
    path = Path(folder) / FOLDER / LOG
    if not path.is_file():
        return
    lines = path.read_bytes()[: whole_bytes(path)].split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            if event["n"] != number:
                raise ValueError(f"event {event['n']}")
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{path}, line {number}: found {error}, expected event {number} as it was written"
            ) from error
        yield event


def _sync(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
