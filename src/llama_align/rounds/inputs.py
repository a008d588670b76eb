"""Files and folders that a configuration names, and digests of them that are not made twice."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..data import SourceError
from ..data.opening import expand as expand_path
from ..recipe.paths import PATHS
from ..runtime.files import write_json
from ..runtime.manifest import file_digest
from .references import strings, texts

KEPT = ".digests.json"  # in a run's directory
CACHES = ("score_cache", "tokens_dir")  # options whose folders grow with a run, and decide nothing
LARGE = 1 << 20  # bytes from which on a digest is kept
SETTLED = 2e9  # nanoseconds after which a file that is written to again has another time, on any file system


def named_files(config: dict) -> Iterator[tuple[str, Path]]:
    """Texts of a configuration that name a file or a folder, with its path."""
    config = {key: value for key, value in config.items() if key not in CACHES}
    named = {text for keys, text in texts(config) if any(key in PATHS or key == "path" for key in keys)}
    for text in sorted(set(strings(config)) - {""}):  # which as a path would be the whole working directory
        # a text that names no file: one too long for a name, or a $ that is no variable; the recipe says so of a path
        with suppress(OSError, SourceError):
            path = Path(expand_path(text))
            # a word such as "auto" may be the name of a folder by chance, where its option names no path
            if path.is_file() or (("/" in text or text in named) and path.is_dir()):
                yield text, path


def changed_file(files: dict[str, str], digests: "Digests") -> str | None:
    """The first text of `text -> digest` that names another content by now, or nothing any more."""
    for text, digest in files.items():
        with suppress(OSError, SourceError):
            if digests.of(Path(expand_path(text))) == digest:
                continue
        return text
    return None


class Digests:
    """Digests of files and folders; of a large file kept by its path, size and times.

    Args:
        kept: where they are kept from one run to the next; None: nowhere.
    """

    def __init__(self, kept: Path | None = None):
        self._kept = kept
        self._rows: dict[str, list] = {}
        self._changed = False
        with suppress(OSError, ValueError):
            rows = json.loads(kept.read_text()) if kept else {}
            self._rows = rows if isinstance(rows, dict) else {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file's content, or of all names and contents in a folder."""
        if path.is_dir():
            rows = [(str(p.relative_to(path)), self.of(p)) for p in sorted(path.rglob("*")) if p.is_file()]
            return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        found = path.stat()
        # the second time is not set by whoever puts the first one back
        stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        name = str(path.resolve())
        row = self._rows.get(name)
        if isinstance(row, list) and row[:-1] == stamp:
            return row[-1]
        digest = file_digest(path)
        if found.st_size >= LARGE and time.time_ns() - max(stamp[1:]) > SETTLED:
            self._rows[name], self._changed = [*stamp, digest], True
        return digest

    def save(self) -> None:
        """Keeps what is new; files that are gone are forgotten."""
        if self._kept and self._changed:
            write_json(self._kept, {name: row for name, row in self._rows.items() if Path(name).is_file()})
            self._changed = False
