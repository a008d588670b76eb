"""JSON lines, plain or compressed (.gz, .xz by the file's name): read with line-exact errors, written whole or not.

Knows nothing of what the rows mean, except in `read_records`, which checks them.
"""

import gzip
import json
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .records import Record, RecordError, show

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.xz")
R = TypeVar("R", bound=Record)


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """Yields (line number from 1, object) for every line that is not blank.

    Raises RecordError for a line that is not a whole JSON object and for compressed data that is cut or damaged,
    FileNotFoundError when there is no such file.
    """
    number = 0
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(Path(path).suffix, open)
    with opener(path, "rb") as file:
        lines = iter(file)
        while True:
            number += 1
            try:
                line = next(lines)
            except StopIteration:
                return
            except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
                raise RecordError(f"{path}, line {number}", None, f"damaged data ({error})", "a whole file") from error
            if line.strip():
                yield number, _parse(line, f"{path}, line {number}")


def _parse(line: bytes, where: str) -> dict:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecordError(where, None, f"byte {line[error.start]:#04x} at {error.start}", "UTF-8 text") from error
    except json.JSONDecodeError as error:
        tail = line.decode("utf-8", "replace").rstrip("\r\n")[-40:]
        raise RecordError(where, None, f"text that ends with {tail!r}", "a complete JSON object") from error
    if not isinstance(row, dict):
        raise RecordError(where, None, show(row), "a complete JSON object")
    return row


def read_records(path: str | os.PathLike, cls: type[R]) -> list[R]:
    """All records of one type in a file the project wrote. Raises RecordError as `read_jsonl` and `from_dict` do."""
    return [cls.from_dict(row, f"{path}, line {number}") for number, row in read_jsonl(path)]


def write_jsonl(path: str | os.PathLike, rows: Iterable[Record | dict[str, Any]]) -> int:
    """Writes rows or records and returns how many. The file appears whole or not at all: written beside, then renamed.

    Raises ValueError for a number JSON cannot hold (NaN, infinity), TypeError for a value it cannot.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with open(partial, "wb") as raw:
            with _compressed(raw, path.suffix) as file:
                for row in rows:
                    row = row.to_dict() if isinstance(row, Record) else row
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                    count += 1
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _compressed(raw: BinaryIO, suffix: str) -> Any:
    if suffix == ".gz":
        # no name and no time in the header: equal rows give equal bytes
        return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
    return lzma.LZMAFile(raw, "wb") if suffix == ".xz" else nullcontext(raw)
