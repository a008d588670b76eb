"""What files a folder held when it was whole: their sizes, times and digests, and what is no longer so."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def described(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Size, time and digest of files, by their names in the folder."""
    names = sorted(names)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # hashing lets the others run
        return dict(zip(names, threads.map(lambda name: _described(folder / name), names), strict=True))


def _described(path: Path) -> dict[str, Any]:
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "sha256": file_digest(path)}


def is_manifest(files: Any) -> bool:
    """Whether this, as read from a file, is what `described` returns."""
    kinds = {"size": int, "mtime_ns": int, "sha256": str}
    return isinstance(files, dict) and all(
        isinstance(row, dict) and all(type(row.get(key)) is kind for key, kind in kinds.items())
        for row in files.values()
    )


def changed(folder: Path, files: dict[str, dict[str, Any]], content: bool = False) -> str | None:
    """The first file that is not as it was described, and how; None where all are.

    A file of the same size and time is taken for the same, unless `content` asks for its digest; one of the same size
    and another time, such as a copy, is the same if its digest is.
    """
    suspects = []
    for name, row in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: found no such file, expected one of {row['size']} bytes"
        found = path.stat()
        if found.st_size != row["size"]:
            return f"{path}: found {found.st_size} bytes, expected {row['size']}"
        if content or found.st_mtime_ns != row["mtime_ns"]:
            suspects.append(name)
    for name, row in described(folder, suspects).items():
        if row["sha256"] != files[name]["sha256"]:
            return f"{folder / name}: found other content than was written (SHA-256 {row['sha256'][:12]}...)"
    return None
