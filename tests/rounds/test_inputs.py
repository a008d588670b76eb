"""Digests of files that a configuration names: those of large ones are made once."""

import json
import os

import pytest

from llama_align.rounds import inputs
from llama_align.rounds.inputs import LARGE, Digests


@pytest.fixture
def read(monkeypatch):
    """Files that were read for their digest."""
    found, digest = [], inputs.file_digest
    monkeypatch.setattr(inputs, "file_digest", lambda path: (found.append(path.name), digest(path))[1])
    return found


def test_a_large_file_is_read_once_and_again_when_it_changed(tmp_path, read, monkeypatch):
    monkeypatch.setattr(inputs, "SETTLED", -1)  # else it would have to be seconds old
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "large").write_bytes(bytes(LARGE))
    (folder / "small").write_bytes(b"x")
    kept = tmp_path / "digests.json"

    def digest() -> str:
        read.clear()
        digests = Digests(kept)
        found = digests.of(folder)
        digests.save()
        return found

    first = digest()
    assert read == ["large", "small"]
    assert digest() == first
    assert read == ["small"]
    before = (folder / "large").stat()
    (folder / "large").write_bytes(b"1" + bytes(LARGE - 1))
    os.utime(folder / "large", ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time
    assert digest() != first
    assert read == ["large", "small"]
    (folder / "large").rename(tmp_path / "large")
    (tmp_path / "more").write_bytes(bytes(LARGE))
    digests = Digests(kept)
    digests.of(tmp_path / "more")
    digests.save()
    assert list(json.loads(kept.read_text())) == [str(tmp_path / "more")], "what is gone is forgotten"


def test_a_file_that_was_just_written_is_read_again(tmp_path, read):
    (tmp_path / "large").write_bytes(bytes(LARGE))
    digests = Digests(tmp_path / "kept")
    assert digests.of(tmp_path / "large") == digests.of(tmp_path / "large")
    assert len(read) == 2, "it might be written again within the same tick of the clock"


@pytest.mark.parametrize("content", ["", "[]", '{"a": 3}', "\x00"])
def test_a_damaged_list_is_none(tmp_path, content):
    (tmp_path / "kept").write_text(content)
    (tmp_path / "file").write_text("x")
    assert Digests(tmp_path / "kept").of(tmp_path / "file") == Digests().of(tmp_path / "file")


def test_a_cache_that_a_run_fills_is_no_input(tmp_path):
    (tmp_path / "tokens").mkdir()
    found = inputs.named_files({"tokens_dir": f"{tmp_path}/tokens", "tokenizer": str(tmp_path)})
    assert list(found) == [(str(tmp_path), tmp_path)]


def test_an_empty_text_names_no_folder(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    found = inputs.named_files({"datasets": [{"path": ""}, {"path": "a.jsonl"}], "output_dir": ""})
    assert [text for text, _ in found] == ["a.jsonl"]


def test_a_run_keeps_them(place, read, monkeypatch):
    from .conftest import make_run

    monkeypatch.setattr(inputs, "SETTLED", -1)
    (place / "data.bin").write_bytes(bytes(LARGE))
    (place / "plan.yaml").write_text(
        (place / "plan.yaml").read_text().replace("size: 4", f"size: 4\n    data: {place}/data.bin")
    )
    make_run(place).execute()
    assert read == ["data.bin"]
    make_run(place)
    assert read == ["data.bin"]
