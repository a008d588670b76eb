"""Files that are whole or absent."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

STARTED = time.time()  # this process, near enough
# how the libraries that write weights say that the system would not let them
REFUSED = ("os error", "PytorchStreamWriter", "inline_container", "iostream error", "file write failed")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """An error of writing that names no file, as that of a full disk, comes out as one that names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except (SafetensorError, RuntimeError) as error:
        if not any(words in str(error) for words in REFUSED):
            raise
        raise OSError(f"{path}: could not be written ({str(error).splitlines()[0]})") from error


@contextmanager
def whole(path: str | Path) -> Iterator[IO[bytes]]:
    """A file that appears with all its bytes, or not at all: written beside, put on the disk, renamed.

    Raises:
        OSError: the disk is full or refuses; it names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with naming(path), open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes text as `whole` does."""
    with whole(path) as file:
        file.write(text.encode())


def write_json(path: str | Path, content: Any) -> None:
    """Writes JSON as `write_text` does; raises ValueError for NaN."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def remove_stale_parts(folder: Path, before: float = STARTED) -> None:
    """Removes unfinished files last written before this run began; a later one may be of another run at work here."""
    for part in folder.glob(".*.part"):
        with suppress(FileNotFoundError):  # another run was faster
            if part.stat().st_mtime < before:
                part.unlink()
