"""Mixtures keep their shares, read nothing twice unasked, and are the same for the same seed."""

from collections import Counter

import pytest

from llama_align.data import load_records


@pytest.fixture
def source(lines):
    def make(name: str, size: int, **options) -> dict:
        rows = ({"text": f"{name} {i}", "source": name} for i in range(size))
        return {"path": lines(*rows, name=f"{name}.jsonl"), **options}

    return make


def test_without_weights_everything_comes_in_order(source):
    records, report = load_records([source("a", 3), source("b", 2)["path"]], "document")
    assert [r.text for r in records] == ["a 0", "a 1", "a 2", "b 0", "b 1"]
    assert str(report).splitlines()[0].split() == ["source", "rows", "left", "out", "skipped", "records", "used"]
    assert [line.split() for line in str(report).splitlines()[1:]] == [
        ["a", "3", "0", "0", "3", "3"],
        ["b", "2", "0", "0", "2", "2"],
        ["together", "5", "0", "0", "5", "5"],
    ]


def test_weights_are_shares_without_repetition(source):
    sources = [source("a", 100, weight=0.5), source("b", 30, weight=0.3), source("c", 500, weight=0.2)]
    records, report = load_records(sources, "document")
    assert Counter(r.source for r in records) == {"a": 50, "b": 30, "c": 20}
    assert len({r.text for r in records}) == 100
    assert [t.used for t in report.tallies] == [50, 30, 20]
    assert load_records(sources, "document")[0] == records
    assert load_records(sources, "document", seed=1)[0] != records


def test_a_source_that_repeats_does_not_limit_the_mixture(source):
    sources = [source("a", 90, weight=9), source("b", 4, weight=1, repeat=True)]
    records, _ = load_records(sources, "document")
    assert Counter(r.source for r in records) == {"a": 90, "b": 10}
    times = Counter(r.text for r in records if r.source == "b")
    assert sorted(times.values()) == [2, 2, 3, 3]
    everything, _ = load_records([s | {"repeat": True} for s in sources], "document")
    assert Counter(r.source for r in everything) == {"a": 90, "b": 10}


def test_one_more_source_does_not_change_what_another_gives(source):
    a, b = source("a", 100, weight=1), source("b", 10, weight=1)
    first = {r.text for r in load_records([a, b], "document")[0] if r.source == "a"}
    second = {r.text for r in load_records([a, b, source("c", 10, weight=1)], "document")[0] if r.source == "a"}
    assert first == second
    assert len(first) == 10


def test_what_does_not_fit_together(source):
    with pytest.raises(ValueError, match="key 'weight': found nothing, expected one for every source or none"):
        load_records([source("a", 3, weight=1), source("b", 2)], "document")
    with pytest.raises(ValueError, match="kind of records: found 'pair', expected one of document"):
        load_records([source("a", 3)], "pair")
    with pytest.raises(ValueError, match=r"empty.jsonl: it holds no rows, expected at least one document"):
        load_records([source("empty", 0)], "document")


def test_a_source_with_epochs_is_read_so_often_at_most(source):
    sources = [source("a", 500, weight=1), source("b", 10, weight=1, epochs=2.5)]
    times = Counter(r.text for r in load_records(sources, "document")[0])
    found = {name: [n for text, n in times.items() if text.startswith(name)] for name in "ab"}
    assert found["a"] == [1] * 25
    assert sorted(found["b"]) == [2] * 5 + [3] * 5
    with pytest.raises(ValueError, match=r"key 'epochs': found 2 .*, expected none beside repeat: true"):
        load_records([source("a", 3, weight=1, repeat=True, epochs=2)], "document")


def test_shares_are_of_what_is_counted(source):
    """Equal weights of long and short records, of which some will be left out: each gives half of what counts."""

    def size(record) -> int:
        number = int(record.text.split()[1])
        return 0 if number % 5 == 0 else (100 if record.source == "long" else 3) + number % 7

    sources = [source("long", 200, weight=1), source("short", 600, weight=1, epochs=1.5)]
    records, report = load_records(sources, "document", size=size, unit="tokens")
    tokens = {name: sum(size(r) for r in records if r.source == name) for name in ("long", "short")}
    whole = sum(size(r) for r in load_records([source("long", 200)], "document")[0])
    short = sum(size(r) for r in load_records([source("short", 600)], "document")[0])
    assert tokens["short"] / short > 1, "the shorter is read again"
    assert tokens["long"] < whole
    assert tokens["short"] == pytest.approx(1.5 * short, abs=5)
    assert tokens["long"] == pytest.approx(1.5 * short, abs=53)
    assert report.sources["short"] == {
        "share": tokens["short"] / sum(tokens.values()),
        "tokens": tokens["short"],
        "epochs": tokens["short"] / short,
    }
    long = report.sources["long"]
    assert str(report).splitlines()[-2].split() == [
        "long",
        f"{long['share']:.2%}",
        str(tokens["long"]),
        f"{long['epochs']:.2f}",
    ]
    everything, report = load_records([sources[0]], "document", size=size, unit="tokens")
    assert len(everything) == 200, "what is left out later is read, and counted there"
    assert report.sources["long"]["epochs"] == 1
    with pytest.raises(ValueError, match=r"long.jsonl: found no document that is not left out"):
        load_records(sources, "document", size=lambda record: 0)


def test_equal_weights_of_a_million_tokens_are_equal_to_a_thousandth(source):
    sources = [source("long", 900, weight=1), source("short", 40_000, weight=1)]
    _, report = load_records(sources, "document", size=lambda r: 900 if r.source == "long" else 13, unit="tokens")
    assert sum(row["tokens"] for row in report.sources.values()) > 1e6
    assert all(abs(row["share"] - 0.5) < 1e-3 for row in report.sources.values())
