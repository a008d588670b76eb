"""JSON lines and JSON lists, plain or compressed (.gz, .xz by the file's name): read with line-exact errors, written
whole or not.

Knows nothing of what the rows mean, except in `read_records`, which checks them.
"""

import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..runtime.files import whole
from .decoding import Decoder, refuse_unsound
from .records import Record, RecordError, show

LINES = (".jsonl", ".jsonl.gz", ".jsonl.xz")
LISTS = (".json", ".json.gz", ".json.xz")
R = TypeVar("R", bound=Record)

_CHUNK = 1 << 16
_OBJECT = "a complete JSON object"
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class _XZ(io.RawIOBase):
    """The content of an .xz file. `lzma.open` ends at the first bytes that are no stream, and says nothing."""

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "rb")  # noqa: SIM115
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while True:
            given = b""
            if self._stream.eof:  # zeros may follow, and other streams
                given = self._stream.unused_data.lstrip(b"\0")
                while not given and (read := self._file.read(_CHUNK)):
                    given = read.lstrip(b"\0")
                if not given:
                    return 0
                self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
            elif self._stream.needs_input and not (given := self._file.read(_CHUNK)):
                raise EOFError("it ends in the middle of a stream")
            if data := self._stream.decompress(given, len(buffer)):
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: str | os.PathLike) -> BinaryIO:
    suffix = Path(path).suffix
    if suffix == ".xz":
        return io.BufferedReader(_XZ(path), _CHUNK)
    return gzip.open(path, "rb") if suffix == ".gz" else open(path, "rb")


def scan_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict | RecordError]]:
    """Yields (line number from 1, object or what is wrong with it) for every line that is not blank.

    Raises RecordError for compressed data that is cut, damaged or followed by something else, FileNotFoundError when
    there is no such file.
    """
    number, decoder = 0, Decoder()
    with _open(path) as file:
        lines = iter(file)
        while True:
            number += 1
            try:
                line = next(lines)
            except StopIteration:
                return
            except _DAMAGE as error:
                raise RecordError(f"{path}, line {number}", None, f"damaged data ({error})", "a whole file") from error
            if line := line.strip():
                yield number, _parse(line, f"{path}, line {number}", decoder)


def read_jsonl(path: str | os.PathLike) -> Iterator[tuple[int, dict]]:
    """Yields (line number from 1, object) for every line that is not blank.

    Raises RecordError for a line that is not a whole and sound JSON object, and as `scan_jsonl` does.
    """
    for number, row in scan_jsonl(path):
        if isinstance(row, RecordError):
            raise row
        yield number, row


def scan_json(path: str | os.PathLike) -> Iterator[tuple[int, dict | RecordError]] | None:
    """Yields (index from 0, object or what is wrong with it) for a file that holds one JSON list; None for another.

    Raises RecordError for a list that is not whole, and as `scan_jsonl` does.
    """
    try:
        with _open(path) as file:
            if not file.peek(1).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
                return None
            content = file.read()
    except _DAMAGE as error:
        raise RecordError(str(path), None, f"damaged data ({error})", "a whole file") from error
    rows, suspect = Decoder().decode(_text(content.strip(), str(path)).strip(), str(path), "a complete JSON list")
    return ((index, _row(row, f"{path}, row {index}", suspect)) for index, row in enumerate(rows))


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {content[error.start]:#04x} at {error.start}"
        raise RecordError(where, None, found, "UTF-8 text") from error


def _parse(line: bytes, where: str, decoder: Decoder) -> dict | RecordError:
    try:
        row, suspect = decoder.decode(_text(line, where), where, _OBJECT)
    except RecordError as error:
        return error
    return _row(row, where, suspect)


def _row(row: Any, where: str, suspect: bool) -> dict | RecordError:
    if not suspect and isinstance(row, dict):
        return row
    try:
        refuse_unsound(row, where)
    except RecordError as error:
        return error
    return row if isinstance(row, dict) else RecordError(where, None, show(row), _OBJECT)


def read_records(path: str | os.PathLike, cls: type[R]) -> list[R]:
    """All records of one type in a file the project wrote. Raises RecordError as `read_jsonl` and `from_dict` do."""
    return [cls.from_dict(row, f"{path}, line {number}") for number, row in read_jsonl(path)]


def write_jsonl(path: str | os.PathLike, rows: Iterable[Record | dict[str, Any]]) -> int:
    """Writes rows or records and returns how many. The file appears whole or not at all: written beside, then renamed.

    Raises ValueError for a number JSON cannot hold (NaN, infinity), TypeError for a value it cannot.
    """
    count = 0
    with whole(path) as raw, _compressed(raw, Path(path).suffix) as file:
        for row in rows:
            row = row.to_dict() if isinstance(row, Record) else row
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
            count += 1
    return count


def _compressed(raw: BinaryIO, suffix: str) -> Any:
    if suffix == ".gz":
        # no name and no time in the header: equal rows give equal bytes
        return gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)
    return lzma.LZMAFile(raw, "wb") if suffix == ".xz" else nullcontext(raw)
