"""Nothing that was acknowledged is lost, whatever is torn or gone; and who is asked what."""

import errno
import json
import os
import random
from collections import Counter

import pytest

from llama_align.people import assign, statistics
from llama_align.people.assign import Look, next_task
from llama_align.people.batch import Batch, Candidate, make_items
from llama_align.people.log import Log
from llama_align.people.store import Store, Work
from llama_align.recipe import RecipeError

from .conftest import events_of, item, make_batch


def said(work: Work, chosen: int = 0, grade: str = "better", **more) -> dict:
    row = {"item": work.item.id, "person": work.person, "turn": work.turn, "first": work.first, "chosen": chosen}
    return row | {"grade": grade, "safe": None, "edited": None, "seconds": 9.0, "ended": True} | more


def do(store: Store, person: str, **more) -> Work | Look | None:
    """Answers what somebody is asked."""
    task = next_task(store, person)
    if isinstance(task, Work):
        store.write("answered", **said(task, **more))
    elif task is not None:
        store.write("looked", item=task.item.id, person=task.person, by=person, stands=True, note="")
    return task


def everything(store: Store) -> list:
    return [*(vars(work) | {"opened": None, "draft": {}} for work in store.works()), store.done(), store.sent_back()]


def test_a_torn_line_is_cut_off_and_the_rest_is_there(opened, tmp_path):
    store = opened(make_batch(tmp_path))
    store.write("joined", person="ada")
    do(store, "ada")
    before, log = everything(store), tmp_path / "people" / "log.jsonl"
    whole = log.read_bytes()
    store.close()
    for part in (b'{"n": 3, "at": 1.0, "ki', b"\x00\x00\xff", b'{"n": 3}'):
        log.write_bytes(whole + part)
        assert everything(Store(tmp_path)) == before, "a reader leaves it as it is"
        assert log.read_bytes() == whole + part
        again = Store(tmp_path, Log(tmp_path))
        assert everything(again) == before
        again.close()
        assert log.read_bytes() == whole


@pytest.mark.parametrize("harm", ["gone", "nonsense", "behind", "ahead"])
def test_the_table_is_made_of_the_log_again(opened, tmp_path, harm):
    store = opened(make_batch(tmp_path))
    for person in ("ada", "ben", "ada"):
        do(store, person)
    before, table = everything(store), tmp_path / "people" / "people.sqlite"
    store.close()
    for beside in tmp_path.glob("people/people.sqlite-*"):
        beside.unlink()
    if harm == "gone":
        table.unlink()
    elif harm == "nonsense":
        table.write_bytes(b"no table" * 1000)
    else:
        again = Store(tmp_path, Log(tmp_path))
        log = tmp_path / "people" / "log.jsonl"
        if harm == "ahead":
            again.write("joined", person="cleo")
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
        else:  # a kill between the two
            again.log.append("joined", person="cleo")
        again.close()
    last = Store(tmp_path, Log(tmp_path))
    assert everything(last) == before
    assert {one.name for one in statistics.people(last)} == {"ada", "ben"} | ({"cleo"} if harm == "behind" else set())
    last.close()


def test_a_log_that_was_changed_is_refused(opened, tmp_path):
    store = opened(make_batch(tmp_path))
    do(store, "ada")
    do(store, "ada")
    log = tmp_path / "people" / "log.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[1])
    with pytest.raises(RecipeError, match=r"log\.jsonl, line 1: found event 2, expected event 1 as it was written"):
        Store(tmp_path)


def test_one_server_at_a_time(opened, tmp_path):
    opened(make_batch(tmp_path))
    with pytest.raises(RecipeError, match="another process serves this batch"):
        Log(tmp_path)


def test_what_the_disk_refuses_is_not_acknowledged(opened, tmp_path, monkeypatch):
    store = opened(make_batch(tmp_path))
    do(store, "ada")
    before, lines = everything(store), events_of(tmp_path)

    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            do(store, "ben")
    assert events_of(tmp_path) == lines
    assert [row for row in everything(store) if not isinstance(row, dict) or row["state"] != "open"] == before
    do(store, "ben")
    assert [event["n"] for event in events_of(tmp_path)] == [1, 2]


def test_the_log_is_on_the_disk_before_the_table_knows(opened, tmp_path, monkeypatch):
    store, done = opened(make_batch(tmp_path)), []
    task = next_task(store, "ada")
    fsync, apply = os.fsync, store._apply
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("disk"), fsync(file)))
    monkeypatch.setattr(store, "_apply", lambda event: (done.append("table"), apply(event)))
    store.write("answered", **said(task))
    assert done[:2] == ["disk", "table"]


# -- who is asked what


def test_each_item_goes_to_as_many_as_it_needs(opened, tmp_path):
    items = [item(f"i{n}", people=1 + (n % 3 == 0)) for n in range(12)]
    store = opened(make_batch(tmp_path, items))
    rng, asked = random.Random(0), Counter()
    while not store.full:
        if (task := do(store, rng.choice(["ada", "ben", "cleo"]))) is not None:
            asked[task.item.id] += 1
    assert asked == {one.id: one.people for one in items}
    assert all(len({w.person for w in store.works("item = ?", one.id)}) == one.people for one in items)
    assert do(store, "dora") is None


def test_two_people_at_once_never_hold_the_same(opened, tmp_path):
    store = opened(make_batch(tmp_path))
    first, second = next_task(store, "ada"), next_task(store, "ben")
    assert first.item != second.item
    assert next_task(store, "ada") == first, "a reload shows the same"


def test_what_somebody_left_lying_goes_to_others_when_all_else_is_done(opened, tmp_path, monkeypatch):
    store = opened(make_batch(tmp_path, [item("a"), item("b")]))
    left = next_task(store, "ada")
    assert do(store, "ben").item != left.item
    assert next_task(store, "ben") is None
    monkeypatch.setattr(assign, "HELD", 0)
    assert do(store, "ben").item == left.item
    assert store.full


def test_two_who_skip_end_an_item(opened, tmp_path):
    store = opened(make_batch(tmp_path, [item("a", second_look=True)]))
    for person in ("ada", "ben"):
        assert not store.full
        task = next_task(store, person)
        store.write("skipped", item="a", person=person, turn=task.turn, reason="broken")
    assert store.full


def test_gold_comes_at_its_share_and_never_twice(opened, tmp_path):
    items = [item(f"i{n}") for n in range(300)] + [item(f"g{n}", gold=n % 2) for n in range(80)]
    store = opened(make_batch(tmp_path, items, gold_share=0.2))
    asked = [do(store, "ada").item for _ in range(250)]
    gold = [one for one in asked if one.gold is not None]
    assert 30 <= len(gold) <= 70
    assert len({one.id for one in gold}) == len(gold)
    assert store.done() == (250 - len(gold), 300)
    assert statistics.people(store)[0].gold.of == len(gold)


def test_shares_of_a_batch():
    pair = (Candidate("a"), Candidate("b"))
    rows = [("helpfulness", [{"role": "user", "content": str(n)}], pair, None) for n in range(40)]
    items = make_items(rows, {"safety": 10}, [], 1, 0.2, 3, 0.1)
    assert Counter(one.people for one in items.values()) == {1: 40, 3: 10}
    assert [one.people for one in items.values() if one.second_look] == [1] * 5, "what several answer needs none"
    assert [one.prompt for one in items.values()].count(None) == 10
    assert make_items(rows, {"safety": 10}, [], 1, 0.2, 3, 0.1) == items


def test_a_batch_reads_as_it_was_written(tmp_path):
    calling = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}], "end": "eom"}
    items = [item("a", texts=(calling, "b\u2028c")), item("b", prompt=None, answers=None)]
    batch = Batch.read(make_batch(tmp_path, items, turns=2))
    assert list(batch.items.values()) == items
    (tmp_path / "people" / "items.jsonl").write_text("{}")
    with pytest.raises(RecipeError, match="found no batch that can be read"):
        Batch.read(tmp_path)
    with pytest.raises(RecipeError, match="found no batch"):
        Batch.read(tmp_path / "none")


# -- what managers see


def test_biases_speed_and_agreement(opened, tmp_path):
    long = "word " * 100
    items = [item(f"i{n}", texts=("short", long), people=2) for n in range(30)]
    store = opened(make_batch(tmp_path, items))
    for _ in range(30):
        do(store, "ada", chosen=1, seconds=2.5)
        task = next_task(store, "ben")
        store.write("answered", **said(task, chosen=task.first, seconds=20.0))
    ada, ben = statistics.people(store)
    assert (ada.longer.value, ada.longer.is_biased, ada.too_fast.part, ada.seconds) == (1.0, True, 30, 2.5)
    assert (ben.left.value, ben.left.is_biased, ben.too_fast.part) == (1.0, True, 0)
    assert not ada.left.is_biased
    assert ada.agrees == ben.agrees
    found = statistics.agreement(store)
    assert found["preference and grade"].items == 30
    assert found["preference and grade"].alpha < 0.1
    assert found["whether an answer is safe"].alpha is None
    rows = dict(statistics.models(store))
    assert rows["model-1 at 1"].part == 30 + sum(1 - w.first == 0 for w in store.works("person = 'ben'"))
    assert json.loads((tmp_path / "waits.json").read_text()) == {"done": 60, "of": 60, "by": "people"}
