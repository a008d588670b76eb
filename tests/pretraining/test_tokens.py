"""Documents to mapped files, and what is read from them."""

import json
import os
import signal
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pytest

from llama_align.data import DataSource, Infilling, SourceError, document_rows, load_records
from llama_align.data.tokenized import document_ids
from llama_align.pretraining import SourceRows, open_sources, tokenise, write
from llama_align.pretraining.tokens import MANIFEST, folder_of, open_folder
from llama_align.pretraining.write import folder_name, tokenizer_digest


@pytest.mark.parametrize("packing", ["concat", "bfd"])
@pytest.mark.parametrize("length", [16, 64, 500])
def test_rows_are_those_of_documents_in_memory(documents, tokenizer, tmp_path, packing, length, monkeypatch):
    monkeypatch.setattr("llama_align.pretraining.write.BATCH_TOKENS", 300)
    paths = [documents("books"), documents("web", 35)]
    sources = open_sources(paths, tokenizer, tmp_path / "tokens")
    rows = SourceRows(sources, length, packing, tokenizer.pad_token_id, len(tokenizer))
    expected = document_rows(load_records(paths, "document")[0], tokenizer, length, packing)
    assert len(rows) == len(expected)
    for found, row in zip((rows[i] for i in range(len(rows))), expected, strict=True):
        assert {key: value.tolist() for key, value in found.items()} == row


def test_many_files_read_like_one_and_documents_are_found(documents, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_align.pretraining.write.BATCH_TOKENS", 100)
    path = documents("books")
    folder = tokenise(DataSource(path), tokenizer, tmp_path / "a", file_characters=500)
    assert len(list(folder.glob("*.arrow"))) > 10
    (source,) = open_sources([str(folder)], tokenizer, tmp_path)
    texts = [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]
    ids = list(document_ids(texts, tokenizer))
    flat, begins = list(chain.from_iterable(ids)), np.cumsum([0, *map(len, ids)])[:-1]
    one = source.tokens
    assert (one.tokens, one.documents, one.bytes) == (len(flat), len(texts), sum(len(t.encode()) for t in texts))
    assert one.sizes().tolist() == list(map(len, ids))
    for start, length in ((0, len(flat)), (0, 1), (313, 200), (len(flat) - 5, 50), (len(flat), 3)):
        found, starts = one.read(start, length)
        assert found.tolist() == flat[start : start + length]
        assert starts.tolist() == [b - start for b in begins if start <= b < start + length]
    for start in range(0, len(flat), 7):
        first = max(i for i, begin in enumerate(begins) if begin <= start)
        assert one.documents_in(start, 1) == (first, first)


def test_nothing_is_tokenised_twice_and_a_kill_costs_a_file(documents, tokenizer, tmp_path, monkeypatch):
    source, written = DataSource(documents("books")), []
    plain = write._write

    def killed(texts, tokenizer, file, infilling):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(file.name)
        plain(texts, tokenizer, file, infilling)

    monkeypatch.setattr(write, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        tokenise(source, tokenizer, tmp_path / "a", file_characters=1000)
    assert not list((tmp_path / "a").rglob(MANIFEST))
    monkeypatch.setattr(write, "_write", lambda *args: (written.append(args[2].name), plain(*args)))
    folder = tokenise(source, tokenizer, tmp_path / "a", file_characters=1000)
    assert len(written) == len(set(written)) == len(list(folder.glob("*.arrow")))
    monkeypatch.setattr(write, "_write", killed)
    assert tokenise(source, tokenizer, tmp_path / "a", file_characters=1000) == folder
    monkeypatch.undo()
    again = tokenise(source, tokenizer, tmp_path / "b", file_characters=1000)
    assert again.name == folder.name
    for file in folder.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes()


def test_several_processes_write_the_same_files(documents, tokenizer, tmp_path):
    source = DataSource(documents("books", 200))
    folders = [tokenise(source, tokenizer, tmp_path / str(n), workers=n, file_characters=3000) for n in (1, 2)]
    assert len(list(folders[0].iterdir())) > 3
    for file in folders[0].iterdir():
        assert (folders[1] / file.name).read_bytes() == file.read_bytes()


def test_a_worker_that_was_killed_is_named_and_an_interrupt_is_no_workers(documents, tokenizer, tmp_path, capsys):
    source = DataSource(documents("books"))
    killed = pytest.raises(SourceError, match=r"books.jsonl: found one of 2 workers killed, expected memory for them")
    with killed, write._processes(source, 2) as submit:
        os.kill(submit(os.getpid).result(), signal.SIGINT)
        submit(os.kill, submit(os.getpid).result(), signal.SIGKILL).result()
    tokenise(source, tokenizer, tmp_path / "a", file_characters=1000)
    assert "60document" in capsys.readouterr().err


def test_a_folder_is_named_by_what_decides_its_tokens(documents, tokenizer, llama2_tokenizer, tmp_path):
    source = DataSource(documents("books"))
    name = folder_name(source, tokenizer)
    assert folder_name(DataSource(source.path, weight=2.0, repeat=True), tokenizer) == name
    assert folder_name(DataSource(source.path, limit=3), tokenizer) != name
    assert folder_name(source, llama2_tokenizer) != name
    with open(source.path, "a") as file:
        file.write('{"text": "more"}\n')
    assert folder_name(source, tokenizer) != name


def test_a_folder_is_found_without_its_digest_and_refused_for_another_tokenizer(
    documents, tokenizer, llama2_tokenizer, tmp_path
):
    folder = tokenise(DataSource(documents("books")), tokenizer, tmp_path / "t")
    (source,) = open_sources([{"path": str(tmp_path / "t" / "books"), "weight": 2}], tokenizer, tmp_path)
    assert (source.name, source.weight, source.tokens.documents) == ("books", 2, 60)
    with pytest.raises(SourceError, match=f"found tokens of the tokenizer {tokenizer_digest(tokenizer)}"):
        open_sources([str(folder)], llama2_tokenizer, tmp_path)
    with pytest.raises(SourceError, match=r"key 'limit': found 3 .*, expected none with format: tokens"):
        open_sources([{"path": str(folder), "limit": 3}], tokenizer, tmp_path)
    assert folder_of(str(folder)) == folder_of(str(tmp_path / "t" / "books")) == folder
    folder.rename(folder.with_name("books-old-abc"))
    assert folder_of(str(tmp_path / "t" / "books")) is None, "it is that of books-old"
    folder.with_name("books-old-abc").rename(folder)
    for options in ({"split": "test"}, {"format": "records"}, {"columns": {"ids": "a"}, "format": "tokens"}):
        with pytest.raises(SourceError, match=rf"key '{next(iter(options))}': found .* for token files, expected none"):
            open_sources([{"path": str(folder), **options}], tokenizer, tmp_path)
    file = next(folder.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(SourceError, match=rf"{file.name}: found \d+, expected \d+ bytes"):
        open_sources([str(folder)], tokenizer, tmp_path)
    (folder.parent / f"books-{'0' * 16}").mkdir()  # tokenised anew, and killed
    with pytest.raises(SourceError, match=r"found books-0{16} \(unfinished\), books-\w+, expected one; name it whole"):
        folder_of(str(folder.parent / "books"))
    assert folder_of(str(folder)) == folder


def test_tokens_made_elsewhere_are_taken_as_they_are(tokenizer, tmp_path):
    lists = [[5, 6, 7], [8], [9, 10, 11, 12]]
    datasets.Dataset.from_dict({"input_ids": lists, "other": ["a", "b", "c"]}).save_to_disk(tmp_path / "saved")
    entry = {"path": str(tmp_path / "saved"), "format": "tokens", "columns": {"ids": "input_ids"}, "name": "web"}
    (source,) = open_sources([entry], tokenizer, tmp_path)
    ids, begins = source.tokens.read(0, 100)
    assert (ids.tolist(), begins.tolist()) == ([5, 6, 7, 8, 9, 10, 11, 12], [0, 3, 4])
    assert (source.name, source.tokens.bytes) == ("web", None)
    with pytest.raises(SourceError, match=r"key 'columns.ids': found 'ids', expected one of input_ids, other"):
        open_sources([{key: entry[key] for key in ("path", "format")}], tokenizer, tmp_path)
    with pytest.raises(SourceError, match="found a column of string, expected lists of whole numbers"):
        open_sources([entry | {"columns": {"ids": "other"}}], tokenizer, tmp_path)
    with pytest.raises(SourceError, match="documents 0 to 2: found the id 12, expected ids below 12"):
        SourceRows([source], 8, "concat", 0, 12)[0]
    with pytest.raises(SourceError, match="found tokens, which only pretraining takes"):
        load_records([entry], "document")
    shuffled = datasets.load_from_disk(str(tmp_path / "saved")).select([2, 0])
    shuffled.save_to_disk(tmp_path / "selected")
    (source,) = open_sources([entry | {"path": str(tmp_path / "selected")}], tokenizer, tmp_path)
    assert source.tokens.read(0, 9)[0].tolist() == [9, 10, 11, 12, 5, 6, 7]


def test_held_out_rows_are_of_one_source_each(documents, tokenizer, tmp_path):
    sources = open_sources([documents("books"), documents("web", 20)], tokenizer, tmp_path / "tokens")
    rows = SourceRows(sources, 64, "concat", tokenizer.pad_token_id, len(tokenizer), apart=True)
    split = [rows[i]["source"] for i in range(len(rows))]
    assert split == sorted(split)
    for number, source in enumerate(sources):
        labels = np.concatenate([rows[i]["input_ids"] for i in range(len(rows)) if split[i] == number])
        assert labels[: source.tokens.tokens].tolist() == source.tokens.read(0, source.tokens.tokens)[0].tolist()
        assert rows.counted()[source.name] == {
            "bytes": source.tokens.bytes,
            "predicted": source.tokens.tokens - source.tokens.documents,
        }


def test_infilling_is_decided_where_documents_are_tokenised(documents, tokenizer, tmp_path):
    source, infilling = DataSource(documents("books")), Infilling(0.9)
    folder = tokenise(source, tokenizer, tmp_path / "a", infilling=infilling)
    assert folder.name != folder_name(source, tokenizer)
    texts = [record.text for record in load_records([source], "document")[0]]
    ids, begins = open_folder(folder).read(0, 10**6)
    wanted = list(document_ids(texts, tokenizer, infilling))
    assert [i for one in wanted for i in one] == ids.tolist()
    assert len(begins) == len(wanted)
    again = tokenise(source, tokenizer, tmp_path / "b", workers=2, file_characters=1000, infilling=infilling)
    assert open_folder(again).read(0, 10**6)[0].tolist() == ids.tolist()
    with pytest.raises(SourceError, match="found none to split, expected documents that fit 4 tokens"):
        tokenise(source, tokenizer, tmp_path / "c", infilling=Infilling(0.9, longest=4))
    with pytest.raises(SourceError, match="found tokens with infilling, expected documents to split"):
        open_sources([str(folder)], tokenizer, tmp_path, infilling=infilling)


def test_held_out_ids_are_looked_through_and_uncounted_text_is_not_half_counted(source_of):
    rows = SourceRows([source_of("a", 3000), source_of("b", 100)], 32, "concat", 0, 3000, apart=True)
    rows.check()
    with pytest.raises(SourceError, match="data source a, documents 0 to 81: found the id 2999, expected ids below"):
        SourceRows(rows.sources, 32, "bfd", 0, 2999, apart=True).check()
    for source, size in zip(rows.sources, (5000, 700), strict=True):
        source.tokens.bytes = size
    assert [one["bytes"] for one in rows.counted().values()] == [5000, 700]
    for source in rows.sources:
        source.tokens.name = "both"
    both = SourceRows(rows.sources, 32, "concat", 0, 3000, apart=True)
    assert [one["bytes"] for one in both.counted().values()] == [5700]
    rows.sources[1].tokens.bytes = None
    assert [one["bytes"] for one in both.counted().values()] == [0]
