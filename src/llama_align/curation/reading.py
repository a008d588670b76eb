"""Raw documents from WARC, HTML in folders and tars, JSON lines, Parquet and the Hub; what cannot be read is counted.

A source's files are shared out among tasks, or its records where there are more tasks than files; a document's place
says which source, file and record it is, and so orders all documents alike for any number of tasks.
"""

import lzma
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from ..data import RecordError, SourceError, jsonl
from ..data.opening import expand, open_rows
from .ledger import Tally, write
from .words import token_count

HTML = (".html", ".htm", ".xhtml")
WARC = (".warc", ".warc.gz", ".arc", ".arc.gz", ".bad")
TAR = (".tar", ".tar.gz", ".tgz", ".tar.xz")
LINES = (*jsonl.LINES, ".json.gz")
MAX_BYTES = 40_000_000
DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.TarError, RecordError, SourceError)
Raw = tuple[str, Any, dict]  # a name, the text or the page's bytes, metadata
Refuse = Callable[[str, str, str], None]  # reason, name, excerpt


@dataclass
class Source:
    """Where raw documents are.

    path: a file, a folder (all files of known kinds in it) or a Hub data set. name: how the corpus calls it.
    kind: auto by the file's ending; pages (HTML in `text_column`) or text, of JSON lines and tables.
    text_column, url_column, date_column: where a row has them; a template such as "{title}\\n{body}" joins columns.
    index: JSON lines with file, url and date of HTML files, {"path": ..., "url": column, "date": column}.
    limit: the first so many records of each file.
    """

    path: str
    name: str | None = None
    kind: str = "auto"
    split: str = "train"
    text_column: str = "text"
    url_column: str = "url"
    date_column: str = "date"
    index: dict[str, str] | None = None
    limit: int | None = None
    files: list[str] = field(default_factory=list, init=False)

    @classmethod
    def parse(cls, value: "Source | dict | str") -> "Source":
        if isinstance(value, cls):
            return value
        value = {"path": value} if isinstance(value, str) else value
        known = [f.name for f in fields(cls) if f.init]
        if not isinstance(value, dict) or not isinstance(value.get("path"), str):
            raise SourceError(f"source: found {value!r}, expected a path or an object with a path")
        if unknown := [key for key in value if key not in known]:
            raise SourceError(f"source {value['path']}: unknown key {unknown[0]!r}, known: {', '.join(known)}")
        return cls(**value)

    def __post_init__(self) -> None:
        if self.kind not in ("auto", "pages", "text"):
            raise SourceError(f"source {self.path}, key 'kind': found {self.kind!r}, expected auto, pages or text")
        path = Path(expand(self.path))
        if path.is_dir() and not (path / "dataset_info.json").is_file() and not (path / "dataset_dict.json").is_file():
            known = (*HTML, *WARC, *TAR, *LINES, ".parquet")
            self.files = sorted(str(file) for file in path.rglob("*") if file.is_file() and file.name.endswith(known))
            if not self.files:
                raise SourceError(f"source {self.path}: a folder without a file that ends in {', '.join(known)}")
        else:
            self.files = [str(path)]
        self.name = self.name or path.name.split(".")[0]
        if self.index and not Path(expand(self.index.get("path", ""))).is_file():
            raise SourceError(f"source {self.path}, key 'index': found {self.index}, expected the path of a file")


def records(source: Source, file: str, refuse: Refuse) -> Iterator[Raw | None]:
    """All records of a file; None for one that was refused, so that the numbers of the others stay."""
    known = _index(source)
    try:
        if file.endswith(WARC):
            yield from _warc(file, refuse)
        elif file.endswith(TAR):
            yield from _tar(known, file, refuse)
        elif file.endswith(HTML):
            yield from _page(known, Path(file), refuse)
        else:
            yield from _rows(source, file, _opened(source, file, refuse), refuse)
    except DAMAGED as error:
        if isinstance(error, SourceError) and not Path(file).is_file():
            raise  # a name that cannot be opened, no file that is damaged
        refuse("damaged file", file, f"{type(error).__name__}: {error}")


def _warc(file: str, refuse: Refuse) -> Iterator[Raw | None]:
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    with open(file, "rb") as stream:
        records = iter(ArchiveIterator(stream, no_record_parse=False, arc2warc=True))
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except (ArchiveLoadFailed, ValueError, *DAMAGED) as error:
                refuse("damaged archive", file, f"{type(error).__name__}: {error}")  # and what follows cannot be found
                return
            if record.rec_type not in ("response", "conversion", "resource"):
                continue
            yield _warc_page(file, record, refuse)


def _warc_page(file: str, record: Any, refuse: Refuse) -> Raw | None:
    url = record.rec_headers.get_header("WARC-Target-URI") or ""
    name = f"{file}#{url}"
    headers = record.http_headers
    kind = (headers.get_header("Content-Type", "") if headers else record.content_type or "").lower()
    if record.rec_type != "conversion" and "html" not in kind:
        return refuse("no page", name, kind)
    if headers and not headers.get_statuscode().startswith("2"):
        return refuse("no page", name, headers.get_statuscode())
    try:
        content = record.content_stream().read(MAX_BYTES + 1)
    except Exception as error:  # warcio raises whatever its decoders do
        return refuse("damaged record", name, f"{type(error).__name__}: {error}")
    if len(content) > MAX_BYTES:
        return refuse("page too large", name, "")
    if getattr(record.raw_stream, "limit", 0) > 0 and not record.raw_stream.read(1):
        return refuse("truncated record", name, "")
    metadata = {"url": url, "date": record.rec_headers.get_header("WARC-Date")}
    return name, (content.decode("utf-8", "replace") if record.rec_type == "conversion" else content), metadata


def _tar(known: dict[str, dict], file: str, refuse: Refuse) -> Iterator[Raw | None]:
    with tarfile.open(file) as tar:
        for member in tar:
            if not member.isfile() or not member.name.endswith(HTML):
                continue
            name = f"{file}#{member.name}"
            if member.size > MAX_BYTES:
                yield refuse("page too large", name, f"{member.size} bytes")
                continue
            yield name, tar.extractfile(member).read(), known.get(Path(member.name).name, {})


def _page(known: dict[str, dict], file: Path, refuse: Refuse) -> Iterator[Raw | None]:
    size = file.stat().st_size
    if size > MAX_BYTES:
        yield refuse("page too large", str(file), f"{size} bytes")
    else:
        yield str(file), file.read_bytes(), known.get(file.name, {})


def _index(source: Source) -> dict[str, dict]:
    if not source.index:
        return {}
    held = source.__dict__.setdefault("_held", {})  # read once for all files
    if not held:
        for _, row in open_rows(source.index["path"]):
            if isinstance(row, RecordError):
                raise row
            held[row["file"]] = {key: row.get(source.index.get(key, key)) for key in ("url", "date")}
    return held


def _opened(source: Source, file: str, refuse: Refuse) -> Iterator[dict | None]:
    """The rows of JSON lines, a table or the Hub; None for one that was refused."""
    reason = "no JSON object" if file.endswith(LINES) else "unreadable row"
    for where, row in open_rows(file, source.split):
        yield refuse(reason, where, str(row)) if isinstance(row, RecordError) else row


def _rows(source: Source, file: str, rows: Iterator[dict | None], refuse: Refuse) -> Iterator[Raw | None]:
    for number, row in enumerate(rows, start=1):
        if row is None:
            yield None
            continue
        name = f"{file}, record {number}"
        text = _column(row, source.text_column)
        if not isinstance(text, str | bytes) or not text.strip():
            yield refuse("no text", name, f"column {source.text_column!r}: {str(text)[:60]!r}")
            continue
        values = {key: row.get(column) for key, column in (("url", source.url_column), ("date", source.date_column))}
        metadata = {key: str(value) for key, value in values.items() if value is not None}
        page = text.encode("utf-8", "replace") if source.kind == "pages" and isinstance(text, str) else text
        yield name, page, metadata


def _column(row: dict, column: str) -> Any:
    if "{" not in column:
        return row.get(column)
    try:
        return column.format(**row)
    except (KeyError, IndexError, TypeError):
        return None


def sound(text: str) -> str:
    """Text that UTF-8 can hold: half a surrogate pair, as in a file's name of another encoding, becomes "?"."""
    return text.encode("utf-8", "replace").decode()


class _Refused(list):
    """What was refused since the last record."""

    def add(self, reason: str, name: str, excerpt: str) -> None:
        self.append((reason, sound(name), sound(excerpt)))


class Read(PipelineStep):
    """The reader of a pipeline: documents of all sources, pages as bytes, texts as text.

    `metadata`: place, source, url, date, tokens.
    """

    type = "curation"
    name = "read"

    def __init__(self, sources: list[Source], folder: Path):
        super().__init__()
        self.sources, self.folder = sources, Path(folder)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        tally, started, away = Tally("read"), time.perf_counter(), 0.0

        units = [(s, f, file) for s, source in enumerate(self.sources) for f, file in enumerate(source.files)]
        by_record = len(units) < world_size
        for s, f, file in units if by_record else units[rank::world_size]:
            source, refused = self.sources[s], _Refused()
            for number, raw in enumerate(records(source, file, refused.add)):
                mine = not by_record or number % world_size == rank
                if mine:
                    tally.documents_in += 1
                    for why in refused:
                        tally.drop(*why)
                refused.clear()
                if source.limit is not None and number >= source.limit:
                    tally.documents_in -= mine
                    break
                if raw is None or not mine:
                    continue
                document = self._document(source, (s << 56) | (f << 32) | number, raw)
                tally.documents_out += 1
                tally.characters_out += len(document.text)
                tally.tokens_out += document.metadata["tokens"]
                paused = time.perf_counter()
                yield document
                away += time.perf_counter() - paused
            for why in refused if not by_record or rank == 0 else ():  # the rest of a damaged file
                tally.documents_in += 1
                tally.drop(*why)
        tally.characters_in, tally.tokens_in = tally.characters_out, tally.tokens_out
        write(self.folder, tally, time.perf_counter() - started - away, rank)

    @staticmethod
    def _document(source: Source, place: int, raw: Raw) -> Document:
        name, text, metadata = raw
        name, text = sound(name), sound(text) if isinstance(text, str) else text
        metadata = {key: sound(value) for key, value in metadata.items() if value}
        tokens = token_count(text) if isinstance(text, str) else 0
        return Document(text, name, metadata=metadata | {"place": place, "source": source.name, "tokens": tokens})
