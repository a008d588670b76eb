"""The pipeline: planted documents that trip one rule each, any number of tasks, kills, bad files, a full disk."""

import gzip
import itertools
import json
import lzma
import os
import struct
import tarfile
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("datatrove", reason="needs the extra 'curation'")
pytest.importorskip("trafilatura", reason="needs the extra 'curation'")

from datatrove.data import Document

from llama_align.curation import dedup, options
from llama_align.curation.corpus_steps import Clusters, Shards
from llama_align.curation.executors import Executor
from llama_align.curation.files import Spill, load, partitions_of
from llama_align.curation.finish import rates
from llama_align.curation.pipeline import Pipeline
from llama_align.curation.reading import Source, records
from llama_align.data import RecordError, SourceError, load_records, write_jsonl

from .kills import killed
from .test_text import FAULTS, SHARED, VOCABULARY, prose, shared

ONE = Executor("local", tasks=1, workers=1)


def rows_of(folder: Path) -> list[dict]:
    found = []
    for path in sorted(folder.glob("corpus-*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found += map(json.loads, file)
    return found


def steps_of(folder: Path) -> dict[str, dict]:
    return {step["name"]: step for step in json.loads((folder / "ledger.json").read_text())["steps"]}


def content(folder: Path) -> dict[str, bytes]:
    names = [
        path for path in sorted(folder.iterdir()) if path.is_file() and path.name not in ("timings.json", "ledger.html")
    ]
    return {path.name: path.read_bytes() for path in names}


PAGE = "<html><body><article><h1>On {0}</h1>{1}</article></body></html>"


def planted() -> list[dict]:
    """Documents of which each trips exactly the rule it is named after; twenty trip none."""
    line = "Subscribe now to the weekly letter of this village and answer the captain."
    rows = [{"url": f"http://site{n}.example/good", "text": prose(150, n), "date": "2020-01-01"} for n in range(20)]
    rows += [{"url": f"http://fault.example/{name}", "text": text} for name, text in FAULTS.items() if name != "long"]
    french = "Le vieux pont de la ville sera réparé avant l'hiver, dit le maire. "
    dirty = "\nThe darnit and the darnit have a darnit letter to carry with it."
    mail = "\nThe answer of the captain: jane@mail.example.org"
    asked = " ".join(f"question{n}" for n in range(14))
    rows += [
        {"url": "http://blocked.example/x", "text": prose(150, 100)},
        {"url": "http://words.example/forbiddenword/x", "text": prose(150, 101)},
        {"url": "http://a.example/page?utm_source=x", "text": prose(150, 102), "date": "2019-01-01"},
        {"url": "https://www.a.example/page#top", "text": prose(150, 103), "date": "2021-06-01"},
        {"url": "http://a.example/page/", "text": prose(150, 104), "date": "2020-01-01"},
        {"url": "http://fr.example/", "text": french * 3 + " ".join(f"mot{n}" for n in range(20))},
        {"url": "http://dirty.example/", "text": prose(150, 105) + dirty},
        {"url": "http://mail.example/", "text": prose(150, 106) + mail},
        {"url": "http://old.example/copy", "text": prose(150, 107), "date": "2018-01-01"},
        {"url": "http://new.example/copy", "text": prose(150, 107) + "\nThe end.", "date": "2022-01-01"},
        {"url": "http://test.example/", "text": f"{prose(150, 108)}\nThe {asked}"},
    ]
    rows += [{"url": f"http://often{n}.example/", "text": f"{prose(150, 200 + n)}\n{line}"} for n in range(7)]
    leak = "\nThe letter of him{0}@one{0}.example.org and her{0}@two{0}.example.org have more."
    rows += [{"url": f"http://leaky.example/{n}", "text": prose(60, 300 + n) + leak.format(n)} for n in range(5)]
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted"))


def plant(folder: Path) -> Path:
    rows = planted()
    write_jsonl(folder / "texts-0.jsonl", rows[::2])
    write_jsonl(folder / "texts-1.jsonl", rows[1::2])
    (folder / "dirty.txt").write_text("darnit\nsome phrase\n")
    write_jsonl(folder / "eval" / "test.jsonl", [{"question": " ".join(f"question{n}" for n in range(13))}])
    return folder


def pipeline(made: Path, output: Path, **changes) -> Pipeline:
    asked = {
        "urls": options.Urls(lists=False, domains=("blocked.example",), words=("forbiddenword",), max_dirty=None),
        "language": options.Languages(keep=("en",)),
        "heuristics": options.Heuristics(
            dirty_words=(str(made / "dirty.txt"),), bounds={"min_mean_word": 3.0}, divergence=8.0
        ),
        "pii": options.Personal(),
        "minhash": options.MinHash(buckets=5),
        "lines": options.Lines(partitions=4),
        "decontamination": options.Decontamination((str(made / "eval" / "test.jsonl"),)),
    }
    sources = [Source.parse({"path": str(made), "name": "planted"})]
    sources[0].files = [file for file in sources[0].files if "texts-" in file]
    return Pipeline(output, sources, **asked | changes)


@pytest.fixture(scope="module")
def run(made, tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    pipeline(made, output).run(ONE)
    return output


def test_each_rule_drops_the_documents_made_for_it_and_no_other(run):
    dropped = {name: step["dropped"] for name, step in steps_of(run).items() if step["dropped"]}
    assert dropped.pop("heuristics") == {name: 1 for name in FAULTS if name != "long"} | {"dirty words": 1}
    assert dropped == {
        "urls": {"block list: domain": 1, "block list: hard_blacklisted": 1},
        "language": {"language fr": 1},
        "versions": {"older version": 2, "domain: personal data": 5},
        "minhash": {"near duplicate": 1},
        "decontamination": {"shares words with test.jsonl": 1},
    }
    changed = {name: step["changed"] for name, step in steps_of(run).items() if step["changed"]}
    assert changed == {"pii": {"email": 11}, "lines": {"frequent line": 7}}


def test_what_is_left_is_what_should_be(run):
    rows = rows_of(run)
    kept = {row["url"] for row in rows}
    assert len(rows) == 20 + 1 + 1 + 1 + 7
    assert {"https://www.a.example/page#top", "http://new.example/copy", "http://mail.example/"} <= kept
    assert "jane@" not in next(row["text"] for row in rows if row["url"] == "http://mail.example/")
    assert not any("Subscribe now" in row["text"] for row in rows)
    assert all(
        row["source"] == "planted" and row["language"] == "en" and row["scores"]["language"] > 0.5 for row in rows
    )
    assert [json.loads(line)["file"] for line in (run / "contaminated.jsonl").open()] == ["test.jsonl"]


def test_counts_of_the_ledger_follow_from_step_to_step(run):
    steps = list(steps_of(run).values())
    assert steps[0]["documents_in"] == len(planted())
    for before, after in itertools.pairwise(steps):
        assert before["documents_out"] == after["documents_in"], after["name"]
        assert before["tokens_out"] == after["tokens_in"], after["name"]
    for step in steps:
        assert step["documents_in"] - step["documents_out"] == sum(step["dropped"].values())
        assert all(1 <= len(found) <= 20 for found in step["examples"].values())
    assert steps[-1]["documents_out"] == len(rows_of(run))
    assert set(json.loads((run / "timings.json").read_text())) == {step["name"] for step in steps[:-1]}


def rest_of_the_rules() -> tuple[list[dict], dict[str, dict[str, int]]]:
    """Documents for the rules that `planted` has none for, and how many each should drop."""
    line = prose(10, 50).splitlines()[0]
    long = [" ".join(prose(90, 80 + n).split()) for n in range(4)]
    pieces = [" ".join(line.split()[at : at + 6]) for line in long for at in (0, 30)]
    several = prose(100, 51).splitlines()
    strange = "\n".join(f"The zq{n}xv and the qz{n}vx have xq{n}zv to zv{n}qx with vz{n}xq." for n in range(10))
    mails = " ".join(f"him{n}@one{n}.org" for n in range(20))
    texts = {
        "long": prose(700, 52),
        "duplicated lines": "\n".join([line] * 4 + prose(60, 53).splitlines()[:4]),
        "duplicated paragraphs": "\n\n".join([line] * 4 + prose(60, 53).splitlines()[:4]),
        "one 2-gram": " ".join(f"silver harbour the {word} with" for word in VOCABULARY.split()),
        "repeated 5-grams": " ".join([*several, *reversed(several)]),
        "repeated n-grams by line": "\n".join([*long, *pieces]),
        "language uncertain": "Le vieux pont de la ville sera réparé avant l'hiver. "
        + " ".join(f"mot{n}" for n in range(60)),
        "personal data": f"{prose(60, 55)}\n{mails}",
        "tokens unlike the corpus'": strange,
    }
    rows = [{"url": f"http://fault.example/{name}", "text": text} for name, text in texts.items()]
    rows += [{"url": f"http://site{n}.example/", "text": prose(88, 1000 + n)} for n in range(60)]
    dirty = "\nThe darnit and the darnit have a darnit letter to carry with it."
    rows += [{"url": f"http://foul.example/{n}", "text": prose(80, 60 + n) + dirty} for n in range(5)]
    rows += [{"url": f"http://copy{n}.example/", "text": prose(80, 70)} for n in range(7)]
    bounds = [
        name for name in texts if name not in ("language uncertain", "personal data", "tokens unlike the corpus'")
    ]
    return rows, {
        "language": {"language uncertain": 1},
        "heuristics": dict.fromkeys(bounds, 1),
        "pii": {"personal data": 1},
        "versions": {"domain: dirty words": 5},
        "divergence": {"tokens unlike the corpus'": 1},
        "lines": {"nothing but frequent lines": 7},
    }


def test_the_rest_of_the_rules_drop_what_was_made_for_them(made, tmp_path):
    rows, expected = rest_of_the_rules()
    write_jsonl(tmp_path / "in.jsonl", rows)
    looks = options.Heuristics(
        bounds={"max_words": 600, "min_alphabetic": 0.7},
        dirty_words=(str(made / "dirty.txt"),),
        max_dirty=0.1,
        divergence=6.0,
    )
    Pipeline(
        tmp_path / "out",
        [Source.parse(str(tmp_path / "in.jsonl"))],
        urls=options.Urls(lists=False, max_pii=None),
        language=options.Languages(thresholds={"fr": 1.1}, default=0.0),
        heuristics=looks,
        pii=options.Personal(action="drop"),
        lines=options.Lines(),
    ).run(ONE)
    dropped = {name: step["dropped"] for name, step in steps_of(tmp_path / "out").items() if step["dropped"]}
    assert dropped == expected
    assert len(rows_of(tmp_path / "out")) == 60


def test_the_corpus_is_read_as_document_records(run):
    documents, _ = load_records([{"path": str(run / "corpus-00000.jsonl.gz")}], "document")
    assert len(documents) == len(rows_of(run))
    assert documents[0].language == "en"
    assert documents[0].scores["language"] > 0.5


def test_any_number_of_tasks_gives_the_same_bytes(made, run, tmp_path):
    pipeline(made, tmp_path).run(Executor("local", tasks=5, workers=2))  # more tasks than files: records are shared out
    assert content(tmp_path) == content(run)


def test_kills_at_random_change_nothing(made, run, tmp_path):
    two, started = Executor("local", tasks=2, workers=2), time.monotonic()
    pipeline(made, tmp_path / "undisturbed").run(two)
    seconds = time.monotonic() - started
    there = tmp_path / "killed"
    assert killed(lambda: pipeline(made, there).run(two), kills=4, seconds=seconds, seed=0) >= 3
    assert content(there) == content(run)


def test_a_second_run_does_nothing_again(made, run, monkeypatch):
    before = content(run)
    monkeypatch.setattr("llama_align.curation.steps.extract", lambda *_, **__: pytest.fail("extracted again"))
    pipeline(made, run).run(ONE)
    assert content(run) == before


def test_a_file_that_changed_is_read_again(made, tmp_path):
    here = pipeline(made, tmp_path)
    before = here.digest(ONE)
    assert pipeline(made, tmp_path).digest(ONE) == before
    words = made / "dirty.txt"
    text, times = words.read_text(), (words.stat().st_atime_ns, words.stat().st_mtime_ns)
    words.write_text(text.replace("phrase", "parhse"))
    assert pipeline(made, tmp_path).digest(ONE) != before
    words.write_text(text)
    os.utime(words, ns=times)
    assert pipeline(made, tmp_path).digest(ONE) == before


def test_steps_can_be_left_out(made, tmp_path):
    without = dict.fromkeys(("urls", "language", "heuristics", "pii", "minhash", "lines", "decontamination"))
    pipeline(made, tmp_path, **without).run(ONE)
    assert list(steps_of(tmp_path)) == ["read", "extract", "balance"]
    assert len(rows_of(tmp_path)) == len(planted())


def test_parquet_holds_the_same_rows(run, tmp_path):
    import pyarrow.parquet

    source = Source.parse({"path": str(run / "corpus-00000.jsonl.gz"), "name": "again"})
    form = options.Output(format="parquet", documents=10)
    Pipeline(tmp_path, [source], language=options.Languages(), form=form).run(ONE)
    files = sorted(tmp_path.glob("corpus-*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    assert len(files) == 3
    assert [row["text"] for row in rows] == [row["text"] for row in rows_of(run)]
    assert json.loads(rows[0]["scores"])["language"] == rows_of(run)[0]["scores"]["language"]


def test_the_page_holds_nothing_that_runs_and_no_address_to_load(tmp_path):
    evil = "<script>alert(1)</script><img src=http://evil.example/x>"
    write_jsonl(
        tmp_path / "in.jsonl", [{"text": f"{evil} {n}", "url": f"http://e{n}.example/{evil}"} for n in range(3)]
    )
    source = Source.parse({"path": str(tmp_path / "in.jsonl"), "name": evil})
    Pipeline(tmp_path / "out", [source], title=evil, heuristics=options.Heuristics()).run(ONE)
    page = (tmp_path / "out" / "ledger.html").read_text("utf-8")
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "<script" not in (tmp_path / "out" / "README.md").read_text("utf-8")


# --- what cannot be read


def bad_files(folder: Path) -> None:
    latin = prose(80, 2).replace("The ", "Th\xe9 ").encode("latin-1")
    lines = prose(60, 3).replace("\n", " ").encode()
    nested = b"<html><body>" + b"<table><tr><td>" * 3_500_000
    files = {
        "good.html": PAGE.format("trees", f"<p>{prose(80)}</p>").encode(),
        "nul.html": PAGE.format("nul", f"<p>{prose(80, 1)}\0\0</p>").encode(),
        "latin.html": b"<html><head><meta charset='utf-8'></head><body><p>" + latin + b"</p></body></html>",
        "huge.html": nested,
        "deep.html": b"<html><body>" + b"<div>" * 300_000 + prose(60).encode(),
        "empty.html": b"",
        "binary.html": bytes(range(256)) * 400,
        "lines.jsonl": b'{"text": "' + lines + b'"}\n{"text": "cut of\n\xff\xfe\n{"text": 5}\n[1]\n{"other": "x"}\n',
        "cut.jsonl.gz": gzip.compress(b'{"text": "a b c"}\n' * 5000)[:-40],
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with tarfile.open(folder / "pages.tar", "w") as tar:
        tar.add(folder / "good.html", "one.html")
    with open(folder / "pages.tar", "r+b") as file:
        file.truncate(700)


def test_bad_input_ends_in_counted_named_refusals(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    bad_files(folder)
    Pipeline(tmp_path / "out", [Source.parse(str(folder))], extraction=options.Extraction(timeout=5)).run(ONE)
    steps = steps_of(tmp_path / "out")
    assert steps["read"]["dropped"]["page too large"] == 1
    assert steps["read"]["dropped"]["damaged file"] == 2
    assert steps["read"]["dropped"]["no JSON object"] == 3
    assert steps["read"]["dropped"]["no text"] == 2
    named = {Path(name).name.split(",")[0] for found in steps["read"]["examples"].values() for name, _ in found}
    assert named == {"huge.html", "pages.tar", "cut.jsonl.gz", "lines.jsonl"}
    assert steps["extract"]["dropped"]["no HTML"] == 2
    texts = [row["text"] for row in rows_of(tmp_path / "out")]
    assert sum(prose(80).split("\n")[0] in text for text in texts) >= 1
    assert sum("Thé " in text for text in texts) == 1
    assert not any("\0" in text for text in texts)


def test_rows_and_tables_are_read_as_by_every_recipe(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    write_jsonl(folder / "good.jsonl", [{"text": prose(80)}])
    (folder / "twice.jsonl").write_text('{"text": "a", "text": "b"}\n')
    (folder / "more.jsonl.xz").write_bytes(lzma.compress(b'{"text": "a b c"}\n') + b"junk")
    (folder / "cut.parquet").write_bytes(b"PAR1 and no more")
    Pipeline(tmp_path / "out", [Source.parse(str(folder))]).run(ONE)
    dropped = steps_of(tmp_path / "out")["read"]["dropped"]
    assert dropped == {"no JSON object": 1, "damaged file": 2}
    (tmp_path / "index.jsonl").write_text("no JSON\n")
    source = Source.parse({"path": str(folder), "index": {"path": str(tmp_path / "index.jsonl")}})
    with pytest.raises(RecordError, match=r"index.jsonl, line 1: found"):
        list(records(source, source.files[0], lambda *_: None))
    missing = Source.parse(str(tmp_path / "nowhere" / "x.parquet"))
    with pytest.raises(SourceError, match=r"x\.parquet"):
        list(records(missing, missing.files[0], lambda *_: None))


def test_bombs_end_in_counted_refusals(tmp_path):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    folder = tmp_path / "in"
    folder.mkdir()
    tables = b"<table><tr><td>" * 1_000_000
    (folder / "tables.html").write_bytes(b"<html><body>" + tables)  # under the limit of a page: 15 MB
    wide = "<table><tr>" + "<td colspan='99999999' rowspan='99999999'>x</td>" * 50 + "</tr></table>"
    (folder / "wide.html").write_text(PAGE.format("tables", f"<p>{prose(60)}</p>{wide}"))
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    (folder / "laughs.xhtml").write_text(
        f'<!DOCTYPE html [<!ENTITY a0 "ha">{entities}]><html><body><p>&a11;</p></body></html>'
    )
    with open(folder / "bomb.warc.gz", "wb") as file:
        headers = [("Content-Type", "text/html"), ("Content-Encoding", "gzip")]
        body = BytesIO(gzip.compress(bytes(60_000_000), 1))
        http = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
        writer = WARCWriter(file, gzip=True)
        writer.write_record(writer.create_warc_record("http://x.example/", "response", payload=body, http_headers=http))
    Pipeline(tmp_path / "out", [Source.parse(str(folder))], extraction=options.Extraction(timeout=30)).run(ONE)
    steps = steps_of(tmp_path / "out")
    assert steps["read"]["dropped"] == {"page too large": 1}
    (name, _), *_ = steps["read"]["examples"]["page too large"]
    assert name.endswith("bomb.warc.gz#http://x.example/")
    (dropped,) = steps["extract"]["examples"].values()
    assert [Path(name).name for name, _ in dropped] == ["tables.html"]
    texts = [row["text"] for row in rows_of(tmp_path / "out")]
    assert len(texts) == 2
    assert all(len(text.split()) < 150 for text in texts)


@shared
def test_truncated_and_wrong_archives_are_counted_and_named(tmp_path):
    Pipeline(tmp_path, [Source.parse(str(SHARED / "html/warc_samples"))]).run(ONE)
    read = steps_of(tmp_path)["read"]
    assert read["dropped"] == {"damaged archive": 3, "no page": 9, "truncated record": 2}
    named = {
        reason: sorted(name.split("#")[0].split("/")[-1] for name, _ in found)
        for reason, found in read["examples"].items()
    }
    chunks, plain = "example-wrong-chunks.warc.gz", "example-bad-non-chunked.warc.gz"
    assert named["damaged archive"] == [plain, "example-bad.warc.gz.bad", chunks]
    assert named["truncated record"] == ["example-space-in-url.arc", chunks]
    assert len(rows_of(tmp_path)) == 8


def test_a_page_that_takes_too_long_is_dropped_and_the_next_is_read(tmp_path, monkeypatch):
    def slow(page, comments=True):
        if b"slow" in page:
            time.sleep(60)
        return page.decode()

    monkeypatch.setattr("llama_align.curation.steps.extract", slow)
    for name in ("a-quick", "b-slow", "c-quick"):
        (tmp_path / f"{name}.html").write_text(f"<p>{name}</p>")
    started = time.monotonic()
    Pipeline(tmp_path / "out", [Source.parse(str(tmp_path))], extraction=options.Extraction(timeout=0.5)).run(ONE)
    assert steps_of(tmp_path / "out")["extract"]["dropped"] == {"time limit": 1}
    assert [row["text"] for row in rows_of(tmp_path / "out")] == ["<p>a-quick</p>", "<p>c-quick</p>"]
    assert time.monotonic() - started < 40


def test_a_page_that_takes_too_much_memory_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_align.curation.steps.extract", lambda page, comments=True: "x" * len(bytearray(4 << 30)))
    (tmp_path / "a.html").write_text("<p>a</p>")
    Pipeline(tmp_path / "out", [Source.parse(str(tmp_path))], extraction=options.Extraction(memory=1.0)).run(ONE)
    assert steps_of(tmp_path / "out")["extract"]["dropped"] == {"out of memory": 1}


def test_archives_of_the_web(tmp_path):

    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    with open(tmp_path / "a.warc.gz", "wb") as file:
        writer = WARCWriter(file, gzip=True)
        for n, (kind, code) in enumerate(
            [("text/html", "200 OK"), ("image/png", "200 OK"), ("text/html", "404 Not Found")]
        ):
            headers = StatusAndHeaders(code, [("Content-Type", kind)], protocol="HTTP/1.1")
            body = BytesIO(PAGE.format(n, f"<p>{prose(60, n)}</p>").encode())
            dated = {"WARC-Date": "2021-03-04T05:06:07Z"}
            record = writer.create_warc_record(
                f"http://x.example/{n}", "response", payload=body, http_headers=headers, warc_headers_dict=dated
            )
            writer.write_record(record)
    Pipeline(tmp_path / "out", [Source.parse(str(tmp_path / "a.warc.gz"))]).run(ONE)
    (row,) = rows_of(tmp_path / "out")
    assert (row["url"], row["date"]) == ("http://x.example/0", "2021-03-04T05:06:07Z")
    assert row["text"].startswith("On 0\n")
    assert steps_of(tmp_path / "out")["read"]["dropped"] == {"no page": 2}


# --- files, duplicates, shares


def test_a_full_disk_is_named_at_once(tmp_path):
    os.symlink("/dev/full", tmp_path / f".00000.jsonl.{os.getpid()}.part")
    step = Shards(tmp_path)
    with pytest.raises(OSError, match=r"No space left on device: .*00000\.jsonl"):
        list(step.run([Document("x" * 100_000, "x")], 0))
    assert not (tmp_path / "00000.jsonl").exists()


def test_a_stage_is_not_begun_without_room(made, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_align.curation.executors.shutil.disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    with pytest.raises(OSError, match="5 MiB free before 'pages'"):
        pipeline(made, tmp_path).run(ONE)


def test_the_newest_of_ten_thousand_versions_stays():
    draw = np.random.default_rng(0)
    versions = np.zeros(10_000, dedup.VERSION)
    versions["hash"] = draw.integers(0, 3_000, 10_000)
    versions["date"] = draw.integers(0, 50, 10_000)
    versions["place"] = draw.permutation(10_000)
    gone = set(dedup.losers(versions).tolist())
    kept = {}
    for url, _, place in sorted(versions.tolist(), key=lambda row: (row[1], -row[2])):
        kept[url] = place
    assert set(versions["place"].tolist()) - gone == set(kept.values())


def test_lines_over_the_limit_go_within_their_bucket_alone():
    common, rare = "a line of all", "a line of six"
    texts = ["\n".join([common, f"own {n}", *([rare] if n < 6 else [])]) for n in range(7)]
    hashed = [dedup.line_hashes(text) for text in texts]
    one = np.concatenate([dedup.line_rows(found, 0) for found in hashed])
    two = np.concatenate([dedup.line_rows(found, n // 4) for n, found in enumerate(hashed)])
    assert dedup.frequent(two, 6).tolist() == []
    drop = np.sort(dedup.frequent(one, 6)["hash"])
    assert dedup.without_lines(texts[0], hashed[0], drop) == (f"own 0\n{rare}", [common])


def test_a_spill_comes_back_whole_whatever_its_parts(tmp_path):
    rows = np.random.default_rng(0).integers(0, 1 << 63, 5000, dtype=np.uint64).astype([("hash", "<u8")])
    spill = Spill(tmp_path, 0, rows.dtype, partitions=4, limit=600)
    for part in np.array_split(rows, 37):
        spill.add(part)
    spill.flush()
    back = np.concatenate([load(partition) for partition in partitions_of(tmp_path)])
    assert len(partitions_of(tmp_path)) <= 4
    assert np.array_equal(np.sort(back["hash"]), np.sort(rows["hash"]))


def test_of_a_cluster_the_newest_stays_and_the_unlike_too(tmp_path):
    text = prose(200, 1).split()
    like, unlike = " ".join([*text[:-3], "other", "end", "now"]), prose(200, 2)
    dated = [("2005", " ".join(text)), ("2009", like), ("2007", unlike), ("2009", like)]
    rows = [{"text": t, "place": n, "date": date} for n, (date, t) in enumerate(dated)]
    write_jsonl(tmp_path / "shards" / "00000.jsonl", rows[:2])
    write_jsonl(tmp_path / "shards" / "00001.jsonl", rows[2:])
    (tmp_path / "pairs").mkdir()
    pairs = [(0, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 1)]
    (tmp_path / "pairs" / "0.dups").write_bytes(b"".join(struct.pack("<4I", *pair) for pair in pairs))
    Clusters(tmp_path / "pairs", tmp_path / "shards", tmp_path, options.MinHash()).run()
    gone = [json.loads(line) for line in (tmp_path / "gone.jsonl").open()]
    assert [(row["place"], row["stays"]) for row in gone] == [(0, 1), (3, 1)]
    assert gone[1]["jaccard"] == 1
    assert dedup.clusters([(1, 2), (4, 5), (2, 3), (9, 9)]) == [[1, 2, 3], [4, 5], [9]]


def test_topics_are_cut_to_their_shares():
    kept = rates({"arts": 800, "science": 100, "sport": 100}, {"arts": 0.4, "sport": 0.9})
    arts = 800 * kept["arts"]
    assert arts / (arts + 200) == pytest.approx(0.4, abs=1e-3)
    assert kept["sport"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limmit": 3}, "key 'limmit': unknown, known: limit, bucket"),
        ({"limit": "six"}, "key 'limit': found 'six', expected a number"),
        (5, "found 5, expected true, false or a mapping"),
    ],
)
def test_a_wrong_option_is_refused_by_name(given, message):
    with pytest.raises(SourceError, match=message):
        options.options(options.Lines, given, "lines")


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (options.Personal, {"action": "delete"}, "action': found 'delete', expected one of replace, drop"),
        (options.Personal, {"kinds": ["name"]}, "kinds': found 'name'"),
        (options.Output, {"format": "csv"}, r"format': found 'csv', expected one of jsonl.gz, parquet"),
        (options.Quality, {"threshold": 0.3}, "key 'model': found nothing"),
        (options.Quality, {"model": "nowhere.safetensors"}, "found nothing at 'nowhere.safetensors'"),
        (options.Languages, {"model": "nowhere.bin"}, "found nothing at 'nowhere.bin'"),
        (options.Decontamination, {"files": ["nowhere.jsonl"]}, "found nothing at 'nowhere.jsonl'"),
    ],
)
def test_a_value_that_would_have_no_effect_is_refused(kind, given, message):
    with pytest.raises(SourceError, match=message):
        options.options(kind, given, "step")


def test_a_missing_list_and_an_unknown_bound_are_refused_before_the_run(made, tmp_path):
    with pytest.raises(SourceError, match=r"dirty_words.*no file 'nowhere.txt'"):
        pipeline(made, tmp_path, heuristics=options.Heuristics(dirty_words=("nowhere.txt",))).run(ONE)
    with pytest.raises(SourceError, match="bounds': found 'min_word', expected some of min_words"):
        pipeline(made, tmp_path, heuristics=options.Heuristics(bounds={"min_word": 3})).run(ONE)


def test_a_wrong_source_or_executor_is_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match="unknown key 'pth'"):
        Source.parse({"path": "x", "pth": 1})
    with pytest.raises(SourceError, match="a folder without a file"):
        Source.parse(str(tmp_path))
    with pytest.raises(SourceError, match="found 'dask', expected one of local, slurm, ray"):
        Executor("dask")
