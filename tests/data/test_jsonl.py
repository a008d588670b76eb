"""Files are written whole or not at all, read back the same, and damage is named by line."""

import gzip
import lzma

import pytest

from llama_align.data import Document, RecordError, read_jsonl, read_records, write_jsonl

ROWS = [{"text": "ein Märchen"}, {"text": "two\nlines", "source": "books"}, {"text": "\u2028 separators \u0085 stay"}]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.xz"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / "new" / f"rows.{suffix}"
    assert write_jsonl(path, ROWS) == 3
    assert list(read_jsonl(path)) == list(enumerate(ROWS, 1))
    assert read_records(path, Document) == [Document(**row) for row in ROWS]
    first = path.read_bytes()
    write_jsonl(path, [Document(**row) for row in ROWS])
    assert path.read_bytes() == first


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)

    def failing():
        yield {"text": "new"}
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_jsonl(path, failing())
    with pytest.raises(ValueError, match="JSON compliant"):
        write_jsonl(path, [{"reward": float("nan")}])
    assert [row for _, row in read_jsonl(path)] == ROWS
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("suffix", "opener"), [("jsonl", open), ("jsonl.gz", gzip.open), ("jsonl.xz", lzma.open)])
def test_a_line_cut_in_half(tmp_path, suffix, opener):
    path = tmp_path / f"pairs.{suffix}"
    with opener(path, "wb") as file:
        file.write(b'{"text": "whole"}\n\n{"text": "cut in ha')
    with pytest.raises(RecordError) as caught:
        list(read_jsonl(path))
    assert str(caught.value) == f"""{path}, line 3: found text that ends with '{{"text": "cut in ha', """ + (
        "expected a complete JSON object"
    )


@pytest.mark.parametrize(
    ("line", "found"), [(b"[1, 2]", "a list of 2"), (b'"text"', "'text'"), (b'{"text": "\xff"}', "byte 0xff at 10")]
)
def test_lines_that_are_no_objects(tmp_path, line, found):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "fine, with a byte order mark"}\n' + line + b"\n")
    with pytest.raises(RecordError, match=rf"rows.jsonl, line 2: found {found}, expected "):
        list(read_jsonl(path))


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.xz"])
def test_a_compressed_file_cut_off_or_damaged(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    write_jsonl(path, ({"text": f"{i} {hash(i)}"} for i in range(5000)))
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"not compressed at all"):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match=rf"rows.{suffix}, line \d+: found "):
            list(read_jsonl(path))
    with pytest.raises(FileNotFoundError):
        list(read_jsonl(tmp_path / "absent.jsonl"))
