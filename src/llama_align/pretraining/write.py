"""Documents to token files: one source, one folder, once.

Knows readers of documents and Arrow; knows nothing of shares or order. See docs/design.md ("Pretraining").
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from ..chat import InfillingTokens
from ..data import DataSource, Infilling, SourceError, tokens_of
from ..data.mixture import LoadReport, nothing_in
from ..data.opening import expand
from ..data.reading import Tally, stream_source
from ..data.tokenized import document_ids
from ..runtime.files import remove_stale_parts, whole, write_json
from ..runtime.identity import lines_digest, settings_digest
from ..runtime.lineage import attend
from ..runtime.manifest import file_digest
from ..runtime.output import say
from ..runtime.progress import Task
from .tokens import COLUMN, MANIFEST, mapped

FILE_CHARACTERS = 20_000_000  # of text in one file, the unit of work and of a kill
BATCH_TOKENS = 1 << 20  # of a record batch, the least a reader knows a number of
VERSION = 1  # of what is written; another makes other folders
# what says which rows are read and how; not where they lie, what they are called or how much of them is used
NOT_DECISIVE = ("path", "name", "weight", "repeat", "epochs")


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of all that decides a document's ids."""
    around = tokens_of(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    made = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    return lines_digest([made, f"{around.bos} {around.eos}"])


def folder_name(
    source: DataSource,
    tokenizer: PreTrainedTokenizerBase,
    file_characters: int = FILE_CHARACTERS,
    infilling: Infilling | None = None,
) -> str:
    """`<label>-<digest>` of what the tokenised source is a function of: tokenizer, content and options that choose."""
    said = {"version": [VERSION, file_characters], "tokenizer": tokenizer_digest(tokenizer), "rows": _choice(source)}
    if infilling and infilling.rate:
        said["infilling"] = asdict(infilling)
    return f"{source.label}-{settings_digest(said | {'content': _content(source)})}"


def _choice(source: DataSource) -> dict:
    return {key: value for key, value in asdict(source).items() if key not in NOT_DECISIVE}


def _content(source: DataSource) -> list[str]:
    path = Path(expand(source.path))
    if path.is_file():
        return [file_digest(path)]
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    # of a name on the Hub the name alone is known
    return [f"{file.relative_to(path)} {file_digest(file)}" for file in files] or [source.path]


def tokenise(
    source: DataSource,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | Path,
    workers: int = 1,
    file_characters: int = FILE_CHARACTERS,
    infilling: Infilling | None = None,
) -> Path:
    """The folder of a source's token files below `output_dir`, written where it is not there whole.

    Args:
        workers: processes that encode beside the one that reads; 1: this one does both.
        file_characters: of text in one file; another number makes another folder.
        infilling: which documents have their middle moved to their end.

    Raises:
        SourceError: a source without documents. RecordError: a row that does not fit.
    """
    folder = Path(output_dir) / folder_name(source, tokenizer, file_characters, infilling)
    if (folder / MANIFEST).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(folder)
    tally = Tally(source.label)
    files = list(_written(source, _units(source, tally, file_characters), tokenizer, infilling, folder, workers))
    if not files:
        raise SourceError(f"data source {source.path}: {nothing_in('document', tally)}")
    tally.used = tally.fitting
    say(LoadReport([tally]))
    paths = [folder / name for name in files]
    if infilling and infilling.rate:
        _check_infilled(paths, source, tokenizer, infilling)
    more = {"rows": _choice(source), "left_out": tally.reasons()}
    write_json(folder / MANIFEST, manifest_of(source.label, tokenizer, paths) | more)
    return folder


def manifest_of(name: str, tokenizer: PreTrainedTokenizerBase, files: list[Path]) -> dict:
    """What a reader is told of token files."""
    described = {file.name: _described(file) for file in files}
    counts = {key: sum(row[key] for row in described.values()) for key in ("documents", "tokens", "bytes")}
    return {"name": name, "tokenizer": tokenizer_digest(tokenizer)} | counts | {"files": described}


def _check_infilled(files: list[Path], source: DataSource, tokenizer, infilling: Infilling) -> None:
    """Says how many documents were split, and raises SourceError where none was."""
    end = InfillingTokens.of(tokenizer).end
    split = sum(int((column.values.to_numpy() == end).sum()) for file in files for column in mapped(file))
    say(f"{source.label}: {split:,} documents have their middle at the end")
    if not split:
        fits = f"documents that fit {infilling.longest} tokens" if infilling.longest else "documents"
        raise SourceError(f"data source {source.path}, infilling: found none to split, expected {fits}")


def _units(source: DataSource, tally: Tally, characters: int) -> Iterator[list[str]]:
    texts, size = [], 0
    for document in stream_source(source, "document", tally):
        texts.append(document.text)
        size += len(document.text)
        if size >= characters:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _written(source: DataSource, units, tokenizer, infilling, folder: Path, workers: int) -> Iterator[str]:
    """Names of files in their order, those that are missing written first."""
    waiting: deque[tuple[Callable[[], None], int]] = deque()
    task = Task(None, "document")
    task.part = source.label
    with _processes(source, workers) as submit, task:
        for number, texts in enumerate(units):
            file = folder / f"{number:06}.arrow"
            yield file.name
            if not file.is_file():
                waiting.append((submit(_write, texts, tokenizer, file, infilling).result, len(texts)))
            else:
                task.add(len(texts))
            while len(waiting) > 2 * workers:  # or the reader would fill the memory
                _await(waiting, task)
        while waiting:
            _await(waiting, task)


def _await(waiting: deque, task: Task) -> None:
    result, documents = waiting.popleft()
    result()
    task.add(documents)


@contextmanager
def _processes(source: DataSource, workers: int) -> Iterator[Callable[..., Future]]:
    """What submits calls to so many processes; to one, none is begun for it."""
    if workers == 1:
        yield _now
        return
    # spawn: a fork would take the threads of the tokenizer along
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), attend, (os.getpid(),))
    try:
        yield pool.submit
    except BrokenProcessPool as error:
        raise SourceError(
            f"data source {source.path}: found one of {workers} workers killed, expected memory for them all; fewer "
            "workers or file_characters take less"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # behind an error or an interrupt nobody waits for what is not begun


def _now(call: Callable, *args) -> Future:
    done: Future = Future()
    done.set_result(call(*args))
    return done


def _write(texts: list[str], tokenizer: PreTrainedTokenizerBase, file: Path, infilling: Infilling | None) -> None:
    size = sum(len(text.encode()) for text in texts)
    write_ids(document_ids(texts, tokenizer, infilling), tokenizer, file, size)


def write_ids(documents: Iterable[list[int]], tokenizer: PreTrainedTokenizerBase, file: Path, size: int = 0) -> None:
    """Documents as one token file; `size` is the bytes of their text, 0 where nobody counted."""
    kind = pa.uint16() if len(tokenizer) <= 1 << 16 else pa.uint32()
    schema = pa.schema([(COLUMN, pa.list_(kind))], metadata={"bytes": str(size)})
    with whole(file) as sink, pa.ipc.new_stream(sink, schema) as stream:
        batch, tokens = [], 0
        for ids in documents:
            batch.append(ids)
            tokens += len(ids)
            if tokens >= BATCH_TOKENS:
                stream.write_batch(pa.record_batch([pa.array(batch, pa.list_(kind))], schema))
                batch, tokens = [], 0
        if batch:
            stream.write_batch(pa.record_batch([pa.array(batch, pa.list_(kind))], schema))


def _described(file: Path) -> dict[str, int]:
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
        size = int(stream.schema.metadata[b"bytes"])
    columns = mapped(file)
    tokens = sum(int(column.offsets[-1].as_py()) - int(column.offsets[0].as_py()) for column in columns)
    return {
        "size": file.stat().st_size,
        "documents": sum(map(len, columns)),
        "tokens": tokens,
        "bytes": size,
    }
