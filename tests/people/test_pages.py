"""What annotators do, through the application without a network, and what is kept of it."""

import re

import pytest

from llama_align.data import GRADES, Preference
from llama_align.people.assign import first_of
from llama_align.people.batch import Item
from llama_align.people.export import preferences

from .conftest import answer, events_of, fields, item, make_batch


def sides(page: str) -> list[str]:
    """The two answers as they stand, left first."""
    return re.findall(r'data-text="([^"]*)"', page)


def test_a_choice_becomes_a_preference_whatever_the_sides(site, tmp_path):
    place = site(make_batch(tmp_path, [item(f"i{n}") for n in range(8)]))
    ada = place.person("ada")
    for choice in range(1, 9):
        left, right = sides(ada.get("/").text)
        assert answer(ada, choice).status == 303
        got = next(p for p in preferences(place.store) if p.collected["item"] == events_of(tmp_path)[-1]["item"])
        assert (got.chosen, got.rejected) == ((left, right) if choice <= 4 else (right, left))
        assert got.grade == GRADES[choice - 1 if choice <= 4 else 8 - choice]
        assert got.collected["sides"] == (["left", "right"] if choice <= 4 else ["right", "left"])
    for got in preferences(place.store):
        by_text = {"The first.": ("model-0", 0.5), "The second one.": ("model-1", 1.0)}
        told = [by_text[got.chosen], by_text[got.rejected]]
        assert list(zip(got.collected["models"], got.collected["temperatures"], strict=True)) == told
        assert (got.annotator, got.round, got.source, got.chosen_finished) == ("ada", 3, "test", True)
        assert got.collected["seconds"] < 5, "no longer than it took here"
        assert Preference.from_dict(got.to_dict()) == got
    assert "The batch is full" in ada.get("/").text
    assert {first_of(0, f"i{n}", "ada", 1) for n in range(8)} == {0, 1}


def test_nothing_tells_who_answered_nor_which_is_gold(site, tmp_path):
    place = site(make_batch(tmp_path, [item("a1"), item("b2", gold=0)], gold_share=0.99))
    pages = []
    ada = place.person("ada")
    for _ in range(2):
        pages.append(ada.get("/").text)
        answer(ada)
    for page in pages:
        assert "model-" not in page
        assert "gold" not in page.lower()
    assert len(preferences(place.store)) == 1


def test_safety_wants_a_label_for_each_answer_by_its_side(site, tmp_path):
    place = site(make_batch(tmp_path, [item(f"s{n}", "safety") for n in range(6)]))
    ada = place.person("ada")
    assert "Say of each answer whether it is safe" in answer(ada).text
    for _ in range(6):
        left, _ = sides(ada.get("/").text)
        assert answer(ada, 8, safe_left="0", safe_right="1").status == 303
        got = next(p for p in preferences(place.store) if p.collected["item"] == events_of(tmp_path)[-1]["item"])
        assert (got.chosen_is_safe, got.rejected_is_safe) == (True, False)
        assert got.rejected == left
    ada.post("/undo")
    assert 'name="safe_left" value="0" checked' in ada.get("/").text


def test_an_edit_belongs_to_the_chosen_answer(site, tmp_path):
    place = site(make_batch(tmp_path))
    ada = place.person("ada")
    refused = answer(ada, 8, edited="Improved.", edited_of="left")
    assert (refused.status, "of the other answer" in refused.text) == (422, True)
    answer(ada, 1, edited="Improved.\r\nTwice.", edited_of="left")
    left, _ = sides(ada.get("/").text)
    answer(ada, 1, edited=left, edited_of="left")
    assert [p.edited for p in preferences(place.store)] == ["Improved.\nTwice.", None]
    assert "20000 are the most" in answer(ada, 1, edited="x" * 20_001, edited_of="left").text


def test_skip_flag_undo_and_draft(site, tmp_path):
    place = site(make_batch(tmp_path))
    ada = place.person("ada")
    form = fields(ada.get("/").text)
    assert ada.post("/draft", form | {"choice": "6", "edited": "half", "edited_of": "right"}).text == "kept"
    page = ada.get("/").text
    assert 'value="6" checked' in page
    assert ">half</textarea>" in page
    assert ada.post("/flag", form | {"note": "odd <b>"}).status == 303
    assert "odd &lt;b&gt;" in ada.get("/").text
    assert "Choose why" in ada.post("/skip", form).text
    assert "The note is empty" in ada.post("/skip", form | {"reason": "5"}).text
    assert ada.post("/skip", form | {"reason": "2", "note": "law"}).status == 303
    assert events_of(tmp_path)[-1]["reason"] == "I lack the knowledge to judge: law"
    other = fields(ada.get("/").text)
    assert other["item"] != form["item"]
    ada.post("/undo")
    assert fields(ada.get("/").text) == form | {"edited_of": "", "seconds": "0"}
    answer(ada, 3)
    assert fields(ada.get("/").text)["item"] == other["item"], "what was begun comes before what is new"
    ada.post("/undo")
    page = ada.get("/").text
    assert 'value="3" checked' in page
    answer(ada, 4)
    assert [p.grade for p in preferences(place.store)] == ["negligibly_better"]
    ada.post("/undo")
    assert "nothing to take back" in ada.post("/undo").text


def test_two_windows_send_once(site, tmp_path):
    place = site(make_batch(tmp_path))
    ada = place.person("ada")
    form = fields(ada.get("/").text) | {"choice": "1"}
    assert ada.post("/answer", form).status == 303
    again = ada.post("/answer", form | {"choice": "8"})
    assert (again.status, "answered already" in again.text) == (422, True)
    for wrong in (
        {"item": "none"},
        {"turn": "2"},
        {"turn": "x"},
        {"choice": "9"},
        {"choice": "\u0661"},
        {"choice": ""},
    ):
        assert ada.post("/answer", fields(ada.get("/").text) | {"choice": "1"} | wrong).status == 422
    assert len(preferences(place.store)) == 1


def test_a_conversation_goes_on_from_the_chosen_and_edited_answer(site, tmp_path):
    own = Item("w1", "helpfulness", source="people")
    place = site(make_batch(tmp_path, [own], turns=3), ("red", "blue"), ("no", "yes"))
    ada = place.person("ada")
    page = ada.get("/").text
    assert "a prompt of your own" in page
    assert "The message is empty" in ada.post("/write", fields(page)).text
    ada.post("/draft", fields(page) | {"text": "A colo"})
    assert ">A colo</textarea>" in ada.get("/").text
    assert ada.post("/write", fields(page) | {"text": "A colour?"}).status == 303
    left, _ = sides(ada.get("/").text)
    answer(ada, 1, edited="Green.", edited_of="left")
    page = ada.get("/").text
    assert "turn 2" in page
    assert "Green." in page
    ada.post("/write", fields(page) | {"text": "Sure?"})
    assert place.live.asked[1] == [
        {"role": "user", "content": "A colour?"},
        {"role": "assistant", "content": "Green."},
        {"role": "user", "content": "Sure?"},
    ]
    answer(ada, 8)
    assert place.store.done() == (0, 1)
    assert ada.post("/end", fields(ada.get("/").text)).status == 303
    assert place.store.done() == (1, 1)
    first, second = preferences(place.store)
    assert (first.chosen, first.edited, first.prompt[-1]["content"]) == (left, "Green.", "A colour?")
    assert [message["content"] for message in second.prompt] == ["A colour?", "Green.", "Sure?"]
    assert (second.collected["turn"], second.collected["models"][0] in ("m0", "m1")) == (2, True)
    ada.post("/undo")
    assert place.store.done() == (0, 1)
    assert "Sure?" in ada.get("/").text


def test_a_second_look_by_somebody_else(site, tmp_path):
    place = site(make_batch(tmp_path, [item("a", second_look=True), item("b", second_look=True)]))
    ada, ben = place.person("ada"), place.person("ben")
    answer(ada, 2)
    assert 'action="/look"' not in ada.get("/").text, "nobody looks at their own"
    page = ben.get("/").text
    assert "Nothing to do" not in page
    answer(ben, 2)
    looks = {name: client.get("/").text for name, client in (("ada", ada), ("ben", ben))}
    assert all("A second look" in page for page in looks.values())
    assert "better" in looks["ada"]
    assert "The note is empty" in ada.post("/look", fields(looks["ada"]) | {"stands": "0"}).text
    assert ada.post("/look", fields(looks["ada"]) | {"stands": "0", "note": "wrong"}).status == 303
    assert ben.post("/look", fields(looks["ben"]) | {"stands": "1"}).status == 303
    assert [p.annotator for p in preferences(place.store)] == ["ada"], "ben's was sent back"
    assert place.store.full
    assert "second look" in ben.post("/undo").text


def test_whoever_is_paused_or_unknown_changes_nothing(site, tmp_path):
    place = site(make_batch(tmp_path))
    ada, manager = place.person("ada"), place.manager()
    form = fields(ada.get("/").text) | {"choice": "1"}
    assert manager.post("/manager/pause", {"name": "ada", "paused": "1"}).status == 303
    assert "Your manager has paused you" in ada.get("/").text
    assert ada.post("/answer", form).status == 422
    manager.post("/manager/pause", {"name": "ada", "paused": "0"})
    assert ada.post("/answer", form).status == 303
    manager.post("/manager/close", {"closed": "1"})
    assert ada.post("/answer", form).status == 422
    assert place.store.full
    manager.post("/manager/close", {"closed": "0"})
    (tmp_path / "preferences.jsonl").write_text("")
    assert answer_of(ada) == 422, "the step has taken the batch"
    assert len(preferences(place.store)) == 1


def answer_of(client) -> int:
    return client.post("/undo").status


@pytest.mark.parametrize("name", ["", "a b", "../x", "ä", "x" * 41, "a.b", "<b>"])
def test_names_that_are_none(site, tmp_path, name):
    place = site(make_batch(tmp_path))
    assert place.manager().post("/manager/invite", {"name": name}).status == 422


def test_the_managers_page_has_everybody_and_exports(site, tmp_path):
    place = site(make_batch(tmp_path, [item("a", people=2), item("b", people=2), item("c", gold=1)], gold_share=0.9))
    manager = place.manager()
    assert "Nobody has come in yet" in manager.get("/manager").text
    for name in ("ada", "ben"):
        client = place.person(name)
        for _ in range(3):
            answer(client, 1)
    page = manager.get("/manager").text
    for part in ("ada", "ben", "Krippendorff", "model-0 at 0.5", "/enter/annotator/ada/", "of 3", "4 of 4"):
        assert part in page
    assert manager.post("/manager/invite", {"name": "cleo"}).status == 303
    assert "cleo" in manager.get("/manager").text
    rows = manager.get("/manager/export/records")
    assert (rows.status, len(rows.text.splitlines())) == (200, 4)
    assert manager.get("/manager/export/argilla").status == 200
    assert manager.get("/manager/export/xml").status == 404
    for path in ("/manager", "/manager/export/records"):
        assert place.person("ada").get(path).status == 401
