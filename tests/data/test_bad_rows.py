"""Rows that break something later are refused by place and name, and `skip: count` reads on after them."""

import gc
import gzip
import json
import lzma
import math

import pyarrow
import pytest
from pyarrow import parquet

from llama_align.data import RecordError, SourceError, load_records, read_jsonl

GOOD = b'{"text": "fine"}'
DEEP = b'{"text": "a", "deep": ' + b"[" * 150 + b"]" * 150 + b"}"

BAD = {
    "half a surrogate pair": (
        rb'{"text": "a\ud800b"}',
        "field 'text': found half of a surrogate pair at 1, 'a.ud800b'",
    ),
    "the other half": (rb'{"text": "\uDC00"}', "field 'text': found half of a surrogate pair at 0"),
    "a key with half a pair": (rb'{"text": "a", "\ud800": 1}', "line 2: found a key with half of a surrogate pair"),
    "NaN": (
        b'{"text": "a", "meta": {"scores": [1, NaN]}}',
        r"'meta\.scores\[1\]': found NaN, expected a finite number",
    ),
    "infinity": (b'{"text": "a", "score": -Infinity}', "field 'score': found -Infinity, expected a finite number"),
    "beyond a float": (b'{"text": "a", "score": 1e999}', "field 'score': found 1e999, expected a number that a float"),
    "5,000 digits": (b'{"text": "a", "id": %s}' % (b"9" * 5000), "field 'id': found an integer of 5000 digits"),
    "400 digits": (b'{"text": "a", "id": %s}' % (b"9" * 400), "'id': found an integer of 400 digits, expected one of"),
    "a key twice": (b'{"text": "a", "text": "b"}', "field 'text': found the key 2 times, expected each key once"),
    "a key twice inside": (b'{"text": "a", "m": [{"x": 1, "x": 1}]}', r"'m\[0\]\.x': found the key 2 times"),
    "nested beyond the parser": (DEEP.replace(b"[", b"[" * 900).replace(b"]", b"]" * 900), "nested by the hundreds"),
    "broken JSON": (b'{"text": "a" "b"}', "found '.*\"a\" \"b\"}' .expecting ',' delimiter at character 14"),
    "cut": (b'{"text": "a', 'found text that ends with \'{"text": "a\', expected a complete JSON object'),
    "no UTF-8": (b'{"text": "\xff"}', "found byte 0xff at 10, expected UTF-8 text"),
    "no object": (b"[1]", "found a list of 1, expected a complete JSON object"),
    "a raw control character": (b'{"text": "a\x00"}', "invalid control character at character 12"),
}


@pytest.fixture
def no_collection():
    """Objects of other tests must not be finalised where the parser is at Python's limit of recursion."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_refused_by_name_and_can_be_skipped(tmp_path, name, no_collection):
    line, complaint = BAD[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([GOOD, line, GOOD]) + b"\n")
    with pytest.raises(RecordError, match=r"rows.jsonl, line 2") as caught:
        load_records([str(path)], "document")
    assert caught.match(complaint)
    assert caught.match(r"; skip: count leaves out such rows \(docs/your_own_data.md\)$")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    with pytest.raises(RecordError, match=complaint):
        list(read_jsonl(path))
    records, report = load_records([{"path": str(path), "skip": "count"}], "document")
    assert [record.text for record in records] == ["fine", "fine"]
    assert report.skipped == 1
    assert "(first: " in str(report)


def test_what_only_looks_bad_is_read(tmp_path):
    texts = ["{[" * 200, r"\ud800", "NaN", "\U0001f600", "nul \0 character", 'key twice: {"a":1,"a":2}']
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": 2**200}) + "\n" for text in texts))
    assert [record.text for record in load_records([str(path)], "document")[0]] == texts
    assert next(read_jsonl(path))[1]["id"] == 2**200
    path.write_bytes(DEEP)  # in a column that is not used
    assert len(load_records([str(path)], "document")[0]) == 1


def test_deep_nesting_where_it_is_used(tmp_path):
    path, nested = tmp_path / "rows.jsonl", json.loads("[" * 150 + "]" * 150)
    path.write_text(json.dumps({"prompt": "a", "objective": "safety", "task": {"form": nested}}))
    with pytest.raises(
        RecordError, match=r"line 1, field 'task\.form\[0\].* found lists or objects more than 100 deep"
    ):
        load_records([str(path)], "prompt")
    path.write_text(json.dumps({"prompt": [{"role": "user", "content": nested}], "response": "a", "score": 1}))
    with pytest.raises(
        RecordError, match=r"line 1, field 'prompt\[0\]\.content.* found lists or objects more than 100"
    ):
        load_records([str(path)], "preference")


@pytest.mark.parametrize("skip", ["error", "count"])
@pytest.mark.parametrize(("suffix", "module"), [("gz", gzip), ("xz", lzma)])
def test_what_follows_a_compressed_member(tmp_path, suffix, module, skip):
    path, member = tmp_path / f"rows.jsonl.{suffix}", module.compress(GOOD + b"\n")
    for tail, rows in ((b"", 1), (b"\0" * 8, 1), (member, 2), (b"\0" * 70000 + member, 2)):
        path.write_bytes(member + tail)
        assert len(list(read_jsonl(path))) == rows
    for tail in (b"junk", b"junk" + member, member[:-9], GOOD + b"\n"):
        path.write_bytes(member + tail)
        with pytest.raises(RecordError, match=rf"rows.jsonl.{suffix}, line [23]: found damaged data"):
            load_records([{"path": str(path), "skip": skip}], "document")


def test_a_large_xz_is_read_to_its_end(tmp_path):
    path = tmp_path / "rows.jsonl.xz"
    line = json.dumps({"text": "long " * 1000}).encode() + b"\n"
    path.write_bytes(lzma.compress(line * 500) + lzma.compress(line * 500))
    assert [number for number, _ in read_jsonl(path)] == list(range(1, 1001))


def test_a_list_in_a_json_file(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'\xef\xbb\xbf [\n  {"text": "a"},\n  {"text": NaN},\n 3, {"text": "b"}]\n')
    with pytest.raises(RecordError, match=r"rows.json, row 1, field 'text': found NaN, expected a finite number"):
        load_records([str(path)], "document")
    records, report = load_records([{"path": str(path), "skip": "count"}], "document")
    assert [record.text for record in records] == ["a", "b"]
    assert report.skipped == 2
    (tmp_path / "rows.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert len(load_records([{"path": f"{path}.gz", "skip": "count"}], "document")[0]) == 2
    path.write_bytes(b'{"text": "a"}\n{"text": "b"}\n')  # many files of lines are named so
    assert len(load_records([str(path)], "document")[0]) == 2
    path.write_bytes(b'[{"text": "a"},\n {"te')
    with pytest.raises(RecordError, match=r"rows.json: found text that ends with .* expected a complete JSON list"):
        load_records([{"path": str(path), "skip": "count"}], "document")


@pytest.mark.parametrize("skip", ["error", "count"])
def test_parquet_that_is_damaged_or_empty(tmp_path, skip):
    path = tmp_path / "rows.parquet"
    source = {"path": str(path), "skip": skip}
    parquet.write_table(pyarrow.table({"text": ["one " * 500, "two"] * 50}), path)
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-10], whole[: len(whole) // 2], b"no parquet at all"):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=r"data source .*rows.parquet: found damaged data at row 0") as caught:
            load_records([source], "document")
        assert "\n" not in str(caught.value)
    path.write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    with pytest.raises(SourceError, match=r"rows.parquet: found damaged data at row 0"):
        load_records([source], "document")
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(SourceError, match=r"rows.parquet: it holds no rows, expected at least one document"):
        load_records([source], "document")
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    parquet.write_table(twice, path)
    with pytest.raises(SourceError, match=r"rows.parquet: found the column 'text' twice, expected it once"):
        load_records([source], "document")


def test_parquet_rows_with_values_that_are_none(tmp_path):
    path = tmp_path / "rows.parquet"
    when = pyarrow.array([0, 2**52, 0, 0], pyarrow.timestamp("ms"))  # the second is in a year no calendar has
    binary = pyarrow.array([b"fine", b"fine", b"\xff", b"good"]).cast(pyarrow.binary())
    text = pyarrow.Array.from_buffers(pyarrow.string(), 4, binary.buffers())
    parquet.write_table(pyarrow.table({"text": text, "when": when, "loss": [math.nan] * 4}), path)
    with pytest.raises(RecordError, match=r"rows.parquet, row 1, field 'when': found timestamp\[\w+\] that cannot be"):
        load_records([str(path)], "document")
    records, report = load_records([{"path": str(path), "skip": "count"}], "document")
    assert [record.text for record in records] == ["fine", "good"]
    assert report.skipped == 2
    parquet.write_table(pyarrow.table({"text": pyarrow.array([b"bytes"])}), path)
    with pytest.raises(RecordError, match=r"row 0, field 'text': found b'bytes' \(bytes\), expected text"):
        load_records([str(path)], "document")
    task = {"prompt": ["a"], "task": [{"answer": math.nan}]}
    parquet.write_table(pyarrow.table(task), path)
    with pytest.raises(RecordError, match=r"row 0, field 'task.answer': found nan, expected a finite number"):
        load_records([{"path": str(path), "objective": "safety"}], "prompt")


def test_a_saved_directory_that_is_damaged(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"text": "one"}] * 3).save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:30])
    with pytest.raises(SourceError, match=r"data source .*saved: found damaged data at row 0"):
        load_records([str(tmp_path / "saved")], "document")
    (tmp_path / "saved" / "state.json").write_text("{")
    with pytest.raises(SourceError, match=r"data source .*saved: found damaged data"):
        load_records([str(tmp_path / "saved")], "document")


def test_nothing_read_is_said_in_one_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n\n")
    with pytest.raises(SourceError, match=r"rows.jsonl: it holds no rows, expected at least one document$"):
        load_records([str(path)], "document")
    path.write_bytes(b'{"text": ""}\n{"text": "a", "lang": "de"}\n{"text": "b", "lang": "de"}\n')
    with pytest.raises(SourceError) as caught:
        load_records([{"path": str(path), "skip": "count", "where": {"lang": "fr"}}], "document")
    assert str(caught.value) == (
        f"data source {path}: no document in its 3 rows; left out 2: 'lang' is not fr; skipped 1: field 'where.lang': "
        f"expected 'lang' (first: {path}, line 1)"
    )
