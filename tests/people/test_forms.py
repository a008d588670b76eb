"""Argilla's and Potato's forms, out and in again."""

import io
import json
import uuid
import zipfile
from types import SimpleNamespace

import pytest

from llama_align.data import RecordError
from llama_align.people.command import export, import_
from llama_align.people.export import preferences, rows_as_bytes
from llama_align.people.forms import from_argilla, from_potato
from llama_align.people.store import Store
from llama_align.recipe import RecipeError

from .conftest import answer, item, make_batch


@pytest.fixture
def answered(site, tmp_path):
    """A batch that two people have answered, with safety labels and an edit."""
    folder = tmp_path / "batch"
    items = [item("a", "safety", people=2), item("b", people=2), item("c")]
    place = site(make_batch(folder, items))
    for name, choice, count in (("ada", 2, 3), ("ben", 8, 2)):
        client = place.person(name)
        for _ in range(count):
            answer(client, choice, safe_left="1", safe_right="0")
    return folder


def gist(store: Store, *names: str) -> list[tuple]:
    rows = [tuple(str(getattr(one, name)) for name in names) for one in preferences(store)]
    return sorted(rows)


def test_argilla_out_and_in(answered, tmp_path):
    export(SimpleNamespace(folder=answered, form="argilla", to=str(tmp_path / "rows.json")))
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {len(row["responses"]["preference"]) for row in rows} == {1, 2}
    for row in rows:
        assert set(row["fields"]) == {"prompt", "response_1", "response_2"}
        for one in row["responses"]["preference"]:
            assert str(uuid.UUID(one["user_id"])) == one["user_id"]
    options = {"folder": tmp_path / "new", "form": "argilla", "source": tmp_path / "rows.json", "round": 3}
    import_(SimpleNamespace(**options))
    names = ("prompt", "chosen", "rejected", "grade", "objective", "chosen_is_safe", "rejected_is_safe", "annotator")
    assert gist(Store(tmp_path / "new"), *names) == gist(Store(answered), *names)
    with pytest.raises(RecipeError, match="found a batch, expected a folder without one"):
        import_(SimpleNamespace(**options))


def test_potato_out_and_in(answered, tmp_path):
    with zipfile.ZipFile(io.BytesIO(rows_as_bytes(Store(answered), "potato"))) as archive:
        archive.extractall(tmp_path / "potato")
    said = (tmp_path / "potato" / "annotation_output" / "ada" / "annotated_instances.jsonl").read_text()
    assert abs(int(json.loads(said.splitlines()[0])["label_annotations"]["preference"]["scale_value"])) == 3
    options = {"folder": tmp_path / "new", "form": "potato", "source": tmp_path / "potato", "round": 3}
    import_(SimpleNamespace(**options))
    names = ("prompt", "chosen", "rejected", "grade", "objective", "annotator", "round")
    assert gist(Store(tmp_path / "new"), *names) == gist(Store(answered), *names)
    assert all("sides" not in one.collected for one in preferences(Store(tmp_path / "new"))), "nobody knows them"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"fields": {"prompt": "a", "response_1": "b"}}, "record 1, field 'responses': found .*two texts"),
        ({"fields": {"response_1": "b", "response_2": "c"}}, "record 1, field 'prompt': found None"),
        (
            {
                "fields": {"prompt": "a", "response_1": "b", "response_2": "c"},
                "responses": {"preference": [{"value": "tie", "user_id": "u"}]},
            },
            "field 'preference': found 'tie', expected response_1 or response_2 and one of",
        ),
    ],
)
def test_rows_of_argilla_that_are_none(tmp_path, row, said):
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    with pytest.raises(RecordError, match=said):
        from_argilla(tmp_path / "rows.json")


def test_a_tie_of_potato_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"id": "1", "prompt": "a", "left": "b", "right": "c"}\n')
    (items, events) = from_potato(tmp_path)
    assert ([one.answer for one in items[0].answers], events) == (["b", "c"], [])
    place = tmp_path / "annotation_output" / "ada"
    place.mkdir(parents=True)
    row = {"id": "1", "label_annotations": {"preference": {"scale_value": "0"}}}
    (place / "annotated_instances.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(RecordError, match=r"line 1, field 'preference': found '0', expected -4 to 4 but 0"):
        from_potato(tmp_path)
