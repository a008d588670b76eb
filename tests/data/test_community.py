"""Alpaca, ShareGPT and UltraFeedback come out as records; an error names the option that would read the row."""

import pytest

from llama_align.data import RecordError, SourceError, load_records

USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Light."}
HUMAN, GPT = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Light."}
PAIR = {"default_grade": "better", "objective": "helpfulness"}


def load(wanted, path, /, **options):
    return load_records([{"path": path, **options}], wanted)[0]


def rated(*answers):
    completions = [{"response": text, "annotations": {"honesty": {"Rating": r}}, "model": m} for text, r, m in answers]
    return {"source": "flan", "instruction": "Why?", "models": [], "completions": completions}


def test_alpaca(lines):
    row = {"instruction": "Why?", "input": "", "output": "Light."}
    assert load("demonstration", lines(row))[0].messages == [USER, ASSISTANT]
    longer = row | {"history": [["Hi", "Hello"]], "system": "Be brief."}
    said = [(m["role"], m["content"]) for m in load("demonstration", lines(longer))[0].messages]
    assert said[:3] == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    assert load("prompt", lines(row), objective="safety")[0].messages == [USER]
    pair = {"instruction": "Why?", "input": "Sky.", "chosen": "Light.", "rejected": "Paint."}
    (record,) = load("preference", lines(pair), **PAIR)
    assert (record.prompt[0]["content"], record.chosen, record.rejected) == ("Why?\n\nSky.", "Light.", "Paint.")
    for bad, complaint in [
        ({"input": "", "output": "x"}, "line 2, field 'instruction': found nothing, expected text"),
        (row | {"history": ["Hi"]}, r"line 2, field 'history': found a list of 1, expected a list of \[question"),
        (row | {"output": ""}, "line 2, field 'completion': found ''"),
    ]:
        with pytest.raises(RecordError, match=complaint):
            load("demonstration", lines(row, bad))


def test_sharegpt(lines):
    row = {"id": "x_0", "conversations": [HUMAN, GPT]}
    assert load("demonstration", lines(row))[0].messages == [USER, ASSISTANT]
    pair = {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "Paint."}}
    (record,) = load("preference", lines(pair), **PAIR)
    assert (record.prompt, record.chosen, record.rejected) == ([USER], "Light.", "Paint.")
    assert load("demonstration", lines({"items": [HUMAN, GPT]}), format="sharegpt", columns={"messages": "items"})
    for bad, complaint in [
        (
            [HUMAN, {"from": "function_call", "value": "f()"}],
            r"'messages\[1\].function_call': found 'f\(\)' .*, expected whole JSON",
        ),
        ([HUMAN, GPT | {"weight": 0}], r"'messages\[1\].weight': found 0 \(int\), expected a message to learn"),
        ([HUMAN, {"from": "gpt"}], r"'messages\[1\].content': found nothing"),
        ([HUMAN, GPT, HUMAN], r"'messages\[2\].role': found 'user', expected 'assistant'"),
    ]:
        with pytest.raises(RecordError, match=complaint):
            load("demonstration", lines(row, {"conversations": bad}))
        assert len(load("demonstration", lines(row, {"conversations": bad}), skip="count")) == 1


def test_ultrafeedback(lines):
    grades = {"score_gap": {"better": 2, "slightly_better": 0}}
    row = rated(("Light.", "5", "a"), ("Paint.", "1", "b"), ("Air.", "4", "c"))
    records = load("preference", lines(row), grades=grades, objective="helpfulness")
    pairs = [(r.chosen, r.rejected, r.grade) for r in records]
    assert pairs == [
        ("Light.", "Paint.", "better"),
        ("Light.", "Air.", "slightly_better"),
        ("Air.", "Paint.", "better"),
    ]
    assert records[0].source == "flan"
    two = load("preference", lines(row), where={"model": ["b", "c"]}, **PAIR)
    assert [(r.chosen, r.rejected) for r in two] == [("Air.", "Paint.")]
    overall = {"instruction": "Why?", "completions": [{"response": "a", "overall_score": s} for s in (3.0, 8.0)]}
    overall["completions"][1]["response"] = "b"
    assert [r.chosen for r in load("preference", lines(overall), **PAIR)] == ["b"]
    missing = rated(("Light.", "5", "a"), ("Paint.", "N/A", "b"), ("Air.", "4", "c"))
    complaint = r"line 1, completions\[1\], field 'annotations.honesty.Rating': found 'N/A', expected a number"
    with pytest.raises(RecordError, match=complaint):
        load("preference", lines(missing), **PAIR)
    records, report = load_records([{"path": lines(missing), "skip": "count", **PAIR}], "preference")
    assert (len(records), report.skipped) == (1, 1)
    assert load("prompt", lines(row), objective="safety")[0].messages == [USER]
    with pytest.raises(RecordError, match="; kind: preference would take what is needed from it; skip: count"):
        load("demonstration", lines(row))
    with pytest.raises(SourceError, match="scores make preferences, not a demonstration"):
        load("demonstration", lines(row), format="ultrafeedback")


@pytest.mark.parametrize(
    ("kind", "row", "cure"),
    [
        ("demonstration", {"question": "Why?", "answer": "Light."}, "columns: {prompt: question, completion: answer}"),
        (
            "demonstration",
            {"instruction": "Why?", "context": "Sky.", "response": "Light."},
            r'columns: {prompt: "{context}\n\n{instruction}", completion: response}',
        ),
        ("demonstration", {"conversation": [USER, ASSISTANT]}, "columns: {messages: conversation}"),
        ("demonstration", {"prompt": "Why?", "chosen": "a", "rejected": "b"}, "kind: preference would take"),
        ("prompt", {"messages": [USER, ASSISTANT]}, "kind: demonstration would take"),
        (
            "preference",
            {"question": "Why?", "chosen_response": "a", "rejected_response": "b"},
            "columns: {prompt: question, chosen: chosen_response, rejected: rejected_response}",
        ),
        ("document", {"content": "Once."}, "columns: {text: content}"),
        (
            "preference",
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            "default_grade is for rows without one, grades",
        ),
    ],
)
def test_an_error_names_what_would_read_the_row(lines, kind, row, cure):
    path = lines(row)
    with pytest.raises(RecordError) as caught:
        load(kind, path)
    assert f"; {cure}" in str(caught.value)
    assert str(caught.value).endswith("; skip: count leaves out such rows (docs/your_own_data.md)")


def test_nothing_is_advised_that_would_not_read(lines):
    with pytest.raises(RecordError) as caught:
        load("preference", lines({"a": 1}))
    assert "would" not in str(caught.value)
    with pytest.raises(
        RecordError, match=r"'objective': found nothing, .*; objective: helpfulness, or safety, in the source"
    ):
        load("prompt", lines({"prompt": "a"}))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["gpteacher_roleplay", "gpteacher_codegen", "selfinstruct_seed_tasks_175"])
def test_real_files_read_as_advised(shared, name):
    (path,) = (shared / "sft").glob(f"{name}.*")
    with pytest.raises(RecordError, match="; format: alpaca would read it; skip"):
        load("demonstration", str(path))
    found = load("demonstration", str(path), format="alpaca", skip="count")
    columns = {"prompt": "{instruction}\n\n{input}", "completion": "response"}
    mapped = load("demonstration", str(path), columns=columns, skip="count")
    assert [[m["content"].split() for m in r.messages] for r in found] == [
        [m["content"].split() for m in r.messages] for r in mapped
    ]
    assert len(found) > 150
