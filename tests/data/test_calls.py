"""Calls of tools in the forms of other projects become one form, or are refused by name."""

import json

import datasets
import pytest

from llama_align.chat import CODE, ContractError, render
from llama_align.data import (
    Demonstration,
    Preference,
    Prompt,
    RecordError,
    demonstration_rows,
    fitting_prompts,
    load_records,
    preference_rows,
    ranking_rows,
    write_jsonl,
)

from ..chat import families

USER = {"role": "user", "content": "Warm in Bern?"}
CALL = {"name": "get", "arguments": {"city": "Bern", "unit": None}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL], "end": "eom"}
HEARD, TOLD = {"role": "ipython", "content": "21"}, {"role": "assistant", "content": "Yes."}
WRITTEN = {"name": "get", "arguments": json.dumps(CALL["arguments"])}
CODING = CALLING | {"tool_calls": [{"name": CODE, "arguments": {"code": " print(21)\n"}}]}


def calling(**keys):
    return {"role": "assistant", "content": None} | keys


def read(tmp_path, row, kind="demonstration", **options):
    write_jsonl(tmp_path / "rows.jsonl", row if isinstance(row, list) else [row])
    options = {"objective": "helpfulness", "default_grade": "better"} | options
    records, report = load_records([{"path": str(tmp_path / "rows.jsonl")} | options], kind)
    return records[0], str(report)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (calling(tool_calls=[{"id": "1", "type": "function", "function": CALL}]), {"tool_call_id": "1", "name": "get"}),
        (calling(tool_calls=[{"id": "1", "type": "function", "function": WRITTEN}]), {"tool_call_id": "1"}),
        (calling(tool_calls=[{"function": WRITTEN, "index": 0}], content=""), {}),
        (calling(tool_calls=[CALL]), {}),
        (calling(tool_calls=[WRITTEN]), {"role": "function", "name": "get"}),
        (calling(tool_calls=[{"type": "function", "name": "get", "parameters": CALL["arguments"]}]), {}),
        (calling(tool_calls=json.dumps([WRITTEN])), {}),
        (calling(function_call=WRITTEN), {"role": "function", "name": "get"}),
        (calling(function_call=CALL), {}),
        (calling(recipient="functions.get", content=WRITTEN["arguments"]), {"recipient": "assistant"}),
    ],
)
def test_a_call_is_read_from_every_form(call, answer, tmp_path):
    messages = [USER, call, {"role": "tool", "content": "21"} | answer]
    ours = [USER, CALLING, HEARD]
    record, report = read(tmp_path, {"messages": [*messages, TOLD]})
    assert record.messages == [*ours, TOLD]
    assert "not read" not in report
    record, _ = read(tmp_path, {"messages": messages}, "prompt")
    assert record.messages == ours
    for row in (
        {"prompt": messages, "chosen": "Yes.", "rejected": [call]},
        {"chosen": [*messages, TOLD], "rejected": [*messages, call]},
    ):
        record, report = read(tmp_path, row, "preference")
        assert (record.prompt, record.chosen, record.rejected) == (ours, "Yes.", CALLING)
        assert "not read" not in report
    record, _ = read(tmp_path, {"prompt": messages, "completion": [call]})
    assert record.messages == [*ours, CALLING]
    scored = [{"prompt": [USER], "response": [call], "score": 2}, {"prompt": [USER], "response": "No.", "score": 1}]
    record, _ = read(tmp_path, scored, "preference")
    assert (record.chosen, record.rejected) == (CALLING, "No.")


@pytest.mark.parametrize("speakers", [("function_call", "observation"), ("tool_call", "tool_response")])
def test_calls_of_sharegpt(speakers, tmp_path):
    said = ("Warm in Bern?", json.dumps(WRITTEN), "21", "Yes.")
    turns = [{"from": who, "value": what} for who, what in zip(("human", *speakers, "gpt"), said, strict=True)]
    record, report = read(tmp_path, {"conversations": turns})
    assert record.messages == [USER, CALLING, HEARD, TOLD]
    assert "not read" not in report
    record, _ = read(tmp_path, {"conversations": turns[:1], "chosen": turns[1], "rejected": turns[3]}, "preference")
    assert (record.prompt, record.chosen, record.rejected) == ([USER], CALLING, "Yes.")
    turns[1]["value"] = "get(Bern)"
    with pytest.raises(RecordError, match=r"'messages\[1\].function_call': found 'get\(Bern\)'.*, expected whole JSON"):
        read(tmp_path, {"conversations": turns})


def test_code_keeps_its_white_space_and_its_python_tag(tmp_path, tokenizer):
    messages = [USER, calling(recipient="python", content=" print(21)\n"), {"role": "tool", "content": ""}, TOLD]
    record, _ = read(tmp_path, {"messages": messages})
    assert record.messages == [USER, CODING, {"role": "ipython", "content": ""}, TOLD]
    assert tokenizer.convert_tokens_to_ids("<|python_tag|>") in render(tokenizer, record.messages).labels


def test_an_end_that_is_given_stays_and_one_before_a_tool_is_eom(tmp_path):
    record, _ = read(tmp_path, {"messages": [USER, calling(tool_calls=[CALL], end="eot"), HEARD, TOLD]})
    assert record.messages[1]["end"] == "eot"
    record, _ = read(tmp_path, {"messages": [USER, {"role": "assistant", "content": "get(Bern)"}, HEARD, TOLD]})
    assert record.messages == [USER, {"role": "assistant", "content": "get(Bern)", "end": "eom"}, HEARD, TOLD]


@pytest.mark.parametrize(
    ("message", "place"),
    [
        (calling(tool_calls=[{"name": "get", "arguments": "{"}]), "tool_calls.arguments"),
        (calling(tool_calls=[{"name": "get", "arguments": '{"a": NaN}'}]), "tool_calls.arguments.a"),
        (calling(tool_calls=[{"name": "get", "arguments": "[1]"}]), "tool_calls"),
        (calling(tool_calls=[CALL, {"name": "get", "arguments": {}, "parameters": {}}]), "tool_calls[1]"),
        (calling(tool_calls=[CALL | {"description": "x"}]), "tool_calls.description"),
        (calling(tool_calls=[{"type": "code", "function": CALL}]), "tool_calls.type"),
        (calling(tool_calls=[{"function": CALL, "result": "21"}]), "tool_calls.result"),
        (calling(tool_calls=[{"name": CODE, "arguments": {"source": "x"}}]), "tool_calls[0].arguments"),
        (calling(tool_calls=[CALL], function_call=CALL), "function_call"),
        (calling(tool_calls=[CALL], tool_call_id="1"), "tool_call_id"),
        (calling(recipient="browser", content="gold"), "recipient"),
        (calling(recipient=5, content="gold"), "recipient"),
        (calling(tool_calls=7), "tool_calls"),
        (calling(function_call=[[]]), "function_call"),
        (USER | {"tool_calls": [CALL]}, "tool_calls"),
        (calling(content="<|python_tag|>print(1)"), "content"),
        (calling(tool_plan="I search.", tool_calls=[CALL]), "tool_plan"),
    ],
)
def test_what_is_no_call_is_refused_by_name(message, place, tmp_path):
    with pytest.raises(RecordError) as caught:
        read(tmp_path, {"messages": [USER, message, HEARD, TOLD]})
    assert caught.value.field == f"messages[1].{place}"


def test_answers_in_another_order_than_their_calls_are_refused(tmp_path):
    calls = [{"id": name, "function": CALL} for name in "ab"]
    answers = [{"role": "tool", "content": name, "tool_call_id": name} for name in "ab"]
    record, _ = read(tmp_path, {"messages": [USER, calling(tool_calls=calls), *answers, TOLD]})
    assert [message["content"] for message in record.messages[2:4]] == ["a", "b"]
    with pytest.raises(RecordError, match=r"'messages\[2\].tool_call_id': found 'b', expected 'a', of the call whose"):
        read(tmp_path, {"messages": [USER, calling(tool_calls=calls), *answers[::-1], TOLD]})
    with pytest.raises(RecordError, match=r"'messages\[2\].name': found 'put', expected 'get'"):
        read(tmp_path, {"messages": [USER, calling(function_call=CALL), HEARD | {"name": "put"}, TOLD]})


TOOL = {"name": "get", "description": "Temperature of a city.", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    "column",
    [
        {"tools": [{"type": "function", "function": TOOL}]},
        {"tools": [TOOL]},
        {"tools": json.dumps([TOOL])},
        {"tools": [json.dumps(TOOL)]},
        {"functions": [TOOL]},
    ],
)
def test_tools_are_introduced_in_the_system_message(column, tmp_path):
    for row, kind in (
        ({"messages": [USER, TOLD]}, "demonstration"),
        ({"prompt": [USER], "completion": "Yes."}, "demonstration"),
        ({"instruction": "Warm in Bern?", "output": "Yes."}, "demonstration"),
        ({"conversations": [{"from": "human", "value": "Warm in Bern?"}]}, "prompt"),
        ({"chosen": [USER, TOLD], "rejected": [USER, CALLING]}, "preference"),
        ([{"prompt": [USER], "response": str(n), "score": n} | column for n in range(2)], "preference"),
    ):
        record, report = read(tmp_path, row if isinstance(row, list) else row | column, kind)
        system, user = (getattr(record, "messages", None) or record.prompt)[:2]
        assert user == USER
        assert system["content"].startswith("Environment: ipython\n\nAnswer the user's question")
        assert json.dumps({"type": "function", "function": TOOL}, indent=4) in system["content"]
        assert "not read" not in report
    options = {"columns": {"messages": "talk", "tools": "schemas"}}
    row = {"talk": [{"role": "system", "content": "Be brief."}, USER, TOLD], "schemas": next(iter(column.values()))}
    record, report = read(tmp_path, row, **options)
    assert record.messages[0]["content"].startswith("Environment: ipython\n\nBe brief.\n\nAnswer the user's")
    assert "not read" not in report


def test_tools_that_are_none_are_refused_and_can_be_ignored(tmp_path):
    for tools in ("a hammer", ["brave_search"], [{"description": "x"}], {"get": {}}, 5):
        with pytest.raises(RecordError, match=r"field 'tools(\[0\])?': found"):
            read(tmp_path, {"messages": [USER, TOLD], "tools": tools})
        record, _ = read(tmp_path, {"messages": [USER, TOLD], "tools": tools}, ignore=["tools"])
        assert record.messages == [USER, TOLD]
    for nothing in (None, [], ""):
        record, _ = read(tmp_path, {"messages": [USER, TOLD], "tools": nothing})
        assert record.messages == [USER, TOLD]


def test_a_table_adds_no_arguments(tmp_path):
    """A table gives every call the arguments of all, null where it has none; JSON text keeps a null that is meant."""
    rows = [
        {"messages": [USER, calling(tool_calls=[{"function": {"name": name, "arguments": arguments}}])]}
        for name, arguments in (("get", {"city": "Bern"}), ("add", {"a": 1, "b": 2}))
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    for path in ("saved", "rows.parquet"):
        records, _ = load_records([str(tmp_path / path)], "demonstration")
        calls = [record.messages[1]["tool_calls"][0]["arguments"] for record in records]
        assert calls == [{"city": "Bern"}, {"a": 1, "b": 2}]
    written = [{"messages": [USER, calling(tool_calls=[WRITTEN])]}]
    datasets.Dataset.from_list(written).to_parquet(tmp_path / "rows.parquet")
    (record,), _ = load_records([str(tmp_path / "rows.parquet")], "demonstration")
    assert record.messages == [USER, CALLING]


def test_rows_of_every_trainer_keep_calls(tokenizer):
    prompt = [USER, CALLING, HEARD]
    pair = Preference(prompt, CODING, "No.", "better", "helpfulness", edited=CALLING, rejected_finished=False)
    as_read = Preference.from_dict(pair.to_dict())
    assert as_read == pair
    whole = {name: render(tokenizer, [*prompt, said]).ids for name, said in (("code", CODING), ("call", CALLING))}
    cut = render(tokenizer, [*prompt, {"role": "assistant", "content": "No."}], continue_final_message=True).ids
    (row,) = preference_rows([pair], tokenizer, 500)[0]
    assert (row["prompt_ids"] + row["chosen_ids"], row["prompt_ids"] + row["rejected_ids"]) == (whole["call"], cut)
    (row,) = ranking_rows([pair], tokenizer, 500)[0]
    assert sorted(row["answers_ids"]) == sorted([whole["code"], whole["call"], cut])
    (row,) = demonstration_rows([Demonstration([*prompt, CODING])], tokenizer, 300)[0]
    learned = render(tokenizer, [*prompt, CODING])
    assert row["input_ids"][: len(learned.ids)] == learned.ids
    assert row["labels"][: len(learned.ids)] == learned.labels
    (kept,), _ = fitting_prompts([Prompt(prompt, "helpfulness")], tokenizer, 500)
    assert kept.messages == prompt


@pytest.mark.parametrize("rows_of", [preference_rows, ranking_rows])
def test_a_call_that_a_dialect_cannot_write_is_refused_with_its_record_and_side(rows_of, tmp_path):
    tokenizer = families.make("chatml", ["bado kilu"])
    fine = Preference([USER], "Yes.", "No.", "better", "helpfulness")
    pair = Preference([USER], "Yes.", CALLING, "better", "helpfulness")
    with pytest.raises(ContractError, match=r"2\b.*rejected, field 'tool_calls': found some, .* ChatML has no form"):
        rows_of([fine, pair], tokenizer, 500)


def test_a_record_says_how_its_calls_end():
    without = {name: value for name, value in CALLING.items() if name != "end"}
    for prompt, answer, place in (([USER, without, HEARD], "Yes.", "prompt[1]"), ([USER], without, "chosen")):
        row = {"prompt": prompt, "chosen": answer, "rejected": "No.", "grade": "better", "objective": "safety"}
        with pytest.raises(RecordError) as caught:
            Preference.from_dict(row)
        assert (caught.value.field, caught.value.expected) == (f"{place}.end", "one of eot, eom")
