"""Every field of every record survives every form of a row or is refused by name; what is not ours is named."""

import dataclasses

import datasets
import pytest

from llama_align.chat import ContractError, render
from llama_align.data import KINDS, Demonstration, Prompt, RecordError, load_records, write_jsonl
from llama_align.data.columns import nearly

USER, TOLD = {"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": "Scattering."}
CALL = {"name": "get", "arguments": {"city": "Bern", "days": [1, 2.5], "unit": None}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL], "end": "eom"}
CODE = {
    "role": "assistant",
    "content": "So.",
    "tool_calls": [{"name": "code_interpreter", "arguments": {"code": " x"}}],
    "end": "eot",
}
TOOLS = [USER, TOLD | {"end": "eom"}, {"role": "ipython", "content": "3"}, CALLING, {"role": "ipython", "content": ""}]
FULL = {
    "document": {"text": "Once.", "source": "books", "url": "https://example.org", "date": "1901"}
    | {"language": "en", "scores": {"quality": 0.5}},
    "prompt": {"messages": [*TOOLS, USER], "objective": "safety", "source": "people", "task": {"family": "fact"}},
    "demonstration": {"messages": [*TOOLS, CALLING], "source": "people", "finished": False},
    "preference": {
        "prompt": TOOLS,
        "chosen": CALLING,
        "rejected": CODE,
        "grade": "better",
        "objective": "safety",
        "chosen_is_safe": True,
        "rejected_is_safe": False,
        "annotator": "a1",
        "round": 2,
        "source": "people",
        "edited": TOLD | {"end": "eom"},
        "chosen_finished": False,
        "rejected_finished": True,
        "collected": {"seconds": 12.5, "models": ["a", "b"], "sides": ["left", "right"]},
    },
    "sample": {
        "prompt": TOOLS,
        "completion": CODE,
        "finished": False,
        "checkpoint": "runs/sft",
        "temperature": 1.0,
        "seed": 7,
        "rewards": {"helpfulness": 0.25},
        "objective": "safety",
        "round": 2,
        "task": {"family": "fact"},
    },
}
CONTENT = {"text", "messages", "prompt", "chosen", "rejected", "completion"}


def as_it_is(kind, row):
    return [row], {}


def mapped(kind, row):
    """Every field in a column of another name."""
    return [{f"col {name}": value for name, value in row.items()}], {"columns": {name: f"col {name}" for name in row}}


def transcripts(kind, row):
    if kind == "preference":
        return [row | {"prompt": "\n\nHuman: Why?"}], {}
    answer = "\n\nAssistant: Scattering." if kind == "demonstration" else ""
    return [row | {"messages": f"\n\nHuman: Why?{answer}"}], {}


def scored(kind, row):
    """Two answers with scores, each with its own ending; what is said of the pair stands beside both."""
    said = {name: value for name, value in row.items() if not name.startswith(("chosen", "rejected"))}
    said |= {name: row[name] for name in ("chosen_is_safe", "rejected_is_safe") if name in row}
    best, worst = (
        {"completion": row[side], "finished": row.get(f"{side}_finished")} for side in ("chosen", "rejected")
    )
    return [said | worst | {"score": 1}, said | best | {"score": 2.5}], {}


def sharegpt(kind, row):
    turns = [{"from": "human", "value": "Why?"}] + [{"from": "gpt", "value": "So."}] * (kind == "demonstration")
    rest = {name: value for name, value in row.items() if name not in ("messages", "prompt")}
    return [rest | {"conversations": turns}], {}


def alpaca(kind, row):
    rest = {name: value for name, value in row.items() if name not in ("messages", "prompt")}
    asked = {"instruction": "Why?", "input": "Really?"} | ({"output": "So."} if kind == "demonstration" else {})
    return [rest | asked], {}


FORMS = {
    "auto": (as_it_is, KINDS),
    "trl": (as_it_is, KINDS),
    "records": (as_it_is, KINDS),
    "columns": (mapped, ("document", "prompt", "demonstration", "preference")),
    "hh": (transcripts, ("prompt", "demonstration", "preference")),
    "scores": (scored, ("preference",)),
    "sharegpt": (sharegpt, ("prompt", "demonstration", "preference")),
    "alpaca": (alpaca, ("prompt", "demonstration", "preference")),
}
CASES = [(form, kind) for form, (_, kinds) in FORMS.items() for kind in kinds]


def read(path, form, kind, row, **options):
    rows, needed = FORMS[form][0](kind, row)
    write_jsonl(path, rows)
    return load_records([{"path": str(path), "format": form} | needed | options], kind)


def test_the_rows_of_this_test_have_every_field():
    assert {kind: set(row) for kind, row in FULL.items()} == {kind: set(cls.names()) for kind, cls in KINDS.items()}


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_every_field_survives_every_form(form, kind, tmp_path):
    row = FULL[kind]
    optional = [f.name for f in dataclasses.fields(KINDS[kind]) if f.default is None]
    for left_out in (None, *optional):
        given = {name: value for name, value in row.items() if name != left_out}
        (record,), report = read(tmp_path / "rows.jsonl", form, kind, given)
        wanted = ({"source": "rows"} if "source" in KINDS[kind].names() else {}) | given
        found = record.to_dict()
        if form in ("hh", "sharegpt", "alpaca"):  # which say nothing of tools
            wanted, found = ({k: v for k, v in d.items() if k not in ("messages", "prompt")} for d in (wanted, found))
        assert found == wanted, left_out
        assert "not read" not in str(report)
    if form in ("auto", "records") and "messages" in row:
        assert any(message.get("end") == "eom" for message in record.messages)


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_every_field_of_a_wrong_type_is_refused_or_named_in_the_report(form, kind, tmp_path):
    refused = []
    for name, value in FULL[kind].items():
        wrong = "five" if isinstance(value, int | float) and not isinstance(value, bool) else 5
        row = FULL[kind] | {name: wrong}
        if (form in ("hh", "sharegpt", "alpaca") and name in ("messages", "prompt")) or (
            form == "scores" and name in ("prompt", "chosen", "rejected")
        ):
            continue  # written by the form itself
        try:
            (record,), report = read(tmp_path / "rows.jsonl", form, kind, row)
        except RecordError as error:
            refused.append((name, error.field))
            continue
        strict = form in ("records", "columns") or kind == "sample"
        assert not strict, name
        assert f"rows: columns not read: {name} ({type(wrong).__name__}, not " in str(report)
        assert getattr(record, name) == ("rows" if name == "source" else None)
    other = {"messages": "prompt", "chosen_finished": "finished", "rejected_finished": "finished"}
    assert refused, "the content at least"
    assert all(field in (name, other.get(name), f"columns.{name}") for name, field in refused), refused


@pytest.mark.parametrize("kind", ["document", "prompt", "demonstration", "preference"])
def test_a_misspelt_field_is_refused_in_every_form_and_can_be_ignored(kind, tmp_path):
    for name in FULL[kind]:
        first, *rest = name.split("_")
        slips = {name.title(), first + "".join(map(str.title, rest)), name.replace("_", "-")} - {name}
        if len(name) > 6:
            slips |= {name[:-2] + name[-1], name[1] + name[0] + name[2:], name + "x"}
        for slip in slips:
            row = {n: v for n, v in FULL[kind].items() if n != name} | {slip: FULL[kind][name]}
            write_jsonl(tmp_path / "rows.jsonl", [row])
            for form in ("auto", "trl", "records"):
                with pytest.raises(RecordError, match=rf"line 1, field '{slip}': found a ") as caught:
                    load_records([{"path": str(tmp_path / "rows.jsonl"), "format": form}], kind)
            assert name in str(caught.value)
            if name in KINDS[kind].names() and name not in CONTENT | {"grade", "objective"}:
                source = {"path": str(tmp_path / "rows.jsonl"), "ignore": [slip]}
                (record,), report = load_records([source], kind)
                assert getattr(record, name) == ("rows" if name == "source" else None)
                assert "not read" not in str(report), "what was asked for needs no word"


def test_names_of_their_own_are_no_slips():
    for theirs, ours in (("prompt_id", "prompt"), ("annotators", "annotator"), ("data", "date"), ("mask", "task")):
        assert not nearly(theirs, ours)


def test_columns_that_are_not_ours_are_named_once_per_source(tmp_path):
    row = {"prompt": "Why?", "response": "So.", "id": 5, "gap": None, "score": 2, "task": "qa"}
    write_jsonl(tmp_path / "rows.jsonl", [row, row | {"later": 1}])
    path = str(tmp_path / "rows.jsonl")
    report = load_records([path], "demonstration")[1]
    assert str(report).splitlines()[2:] == ["rows: columns not read: id, score, task, later"]
    report = load_records([{"path": path, "ignore": ["id", "task"], "where": {"score": 2}}], "demonstration")[1]
    assert str(report).splitlines()[2:] == ["rows: columns not read: later"]
    columns = {"prompt": "{prompt} {id}", "completion": "response"}
    report = load_records([{"path": path, "columns": columns}], "demonstration")[1]
    assert str(report).splitlines()[2:] == ["rows: columns not read: score, task, later"]
    with pytest.raises(RecordError, match=r"line 1, field 'prompt': found a field that is not known"):
        load_records([{"path": path, "format": "records", "kind": "document"}], "document")
    with pytest.raises(ValueError, match="key 'ignore': found 'id', expected names of columns"):
        load_records([{"path": path, "ignore": "id"}], "demonstration")


def test_of_a_prompt_and_a_dialog_beside_it_the_report_names_what_was_passed_over(tmp_path):
    first = {"prompt": "Why is the sky blue?", "messages": [USER, TOLD]}  # as UltraChat and UltraFeedback have them
    pair = first | {"chosen": [USER, TOLD], "rejected": [USER, TOLD | {"content": "Paint."}]}
    write_jsonl(tmp_path / "rows.jsonl", [pair | {"grade": "better", "objective": "helpfulness"}])
    write_jsonl(tmp_path / "dialogs.jsonl", [first])
    (record,), report = load_records([str(tmp_path / "dialogs.jsonl")], "demonstration")
    assert record.messages == [USER, TOLD]
    assert str(report).splitlines()[2:] == ["dialogs: columns not read: prompt (beside messages)"]
    (record,), report = load_records([{"path": str(tmp_path / "dialogs.jsonl"), "objective": "safety"}], "prompt")
    assert record.messages == [USER]
    assert str(report).splitlines()[2:] == ["dialogs: columns not read: messages (beside prompt)"]
    (record,), report = load_records([str(tmp_path / "rows.jsonl")], "preference")
    assert record.prompt == [USER]
    assert str(report).splitlines()[2:] == ["rows: columns not read: messages (beside prompt)"]
    answered = {
        "path": str(tmp_path / "rows.jsonl"),
        "columns": {"prompt": "prompt", "completion": "{chosen[1][content]}"},
    }
    (record,), report = load_records([answered], "demonstration")
    assert record.messages == [USER, TOLD]
    assert "beside" not in str(report), "with columns, those not named are not looked at"


@pytest.mark.parametrize(
    ("extra", "place"),
    [
        ({"tool_calls": [{"function": "f"}]}, "tool_calls"),
        ({"recipient": "browser"}, "recipient"),
        ({"function_call": {"name": 5}}, "function_call"),
        ({"reasoning_content": "Hm."}, "reasoning_content"),
        ({"weight": 0}, "weight"),
        ({"train": False}, "train"),
        ({"end": "eos"}, "end"),
    ],
)
def test_a_key_that_changes_what_a_message_means_is_refused(extra, place, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": [USER, TOLD | extra]}])
    for form in ("auto", "records"):
        with pytest.raises(RecordError, match=rf"line 1, field 'messages\[1\].*{place}"):
            load_records([{"path": str(tmp_path / "rows.jsonl"), "format": form}], "demonstration")


def test_keys_that_say_nothing_are_dropped_and_named(tmp_path):
    extra = {"id": 3, "name": "Ada", "tool_calls": [], "weight": 1.0, "recipient": "all"}
    write_jsonl(tmp_path / "rows.jsonl", [{"messages": [USER, TOLD | extra]}])
    records, report = load_records([str(tmp_path / "rows.jsonl")], "demonstration")
    assert records == [Demonstration([USER, TOLD], "rows")]
    named = "id", "name", "weight"
    assert str(report).splitlines()[2:] == [
        "rows: columns not read: " + ", ".join(f"messages[].{key}" for key in named)
    ]


def test_an_answer_that_waits_for_a_tool_keeps_its_end(tmp_path):
    waits = TOLD | {"end": "eom"}
    row = {"prompt": [USER], "chosen": [waits], "rejected": [TOLD], "grade": "better", "objective": "safety"}
    whole = row | {"prompt": None, "chosen": [USER, waits], "rejected": [USER, TOLD]}
    for given in (row, whole, row | {"chosen": waits}):
        write_jsonl(tmp_path / "rows.jsonl", [given])
        (record,), _ = load_records([str(tmp_path / "rows.jsonl")], "preference")
        assert (record.prompt, record.chosen, record.rejected) == ([USER], waits, TOLD["content"])
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": [USER], "completion": [waits]}])
    (record,), _ = load_records([str(tmp_path / "rows.jsonl")], "demonstration")
    assert record.messages == [USER, waits]


@pytest.mark.parametrize("form", ["auto", "records"])
def test_ends_survive_a_table_that_gives_every_message_the_column(form, tmp_path):
    calling = CALLING | {"tool_calls": [CALL | {"arguments": {"city": "Bern"}}]}  # a null is none in a table
    other = CALLING | {"tool_calls": [CALL | {"arguments": {"days": 3}}]}
    rows = [
        {"messages": [*TOOLS[:3], calling, TOOLS[2], TOLD]},
        {"messages": [USER, other]},
        {"messages": [USER, TOLD]},
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    records, report = load_records([{"path": str(tmp_path / "rows.parquet"), "format": form}], "demonstration")
    assert [record.messages for record in records] == [row["messages"] for row in rows]
    assert "not read" not in str(report)


def test_one_kind_in_place_of_another_keeps_what_it_can(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [FULL["preference"]])
    source = {"path": str(tmp_path / "rows.jsonl"), "kind": "preference"}
    assert load_records([source], "prompt")[0] == [Prompt(TOOLS, "safety", "people")]
    edited = TOLD | {"end": "eom"}
    assert load_records([source], "demonstration")[0] == [Demonstration([*TOOLS, edited], "people")]


def test_an_unknown_end_is_not_rendered(tokenizer):
    with pytest.raises(ContractError, match="message 1, field 'end': found 'eos', expected eot or eom"):
        render(tokenizer, [USER, TOLD | {"end": "eos"}])
    assert render(tokenizer, [USER | {"end": None}]) == render(tokenizer, [USER | {"end": "eot"}])
