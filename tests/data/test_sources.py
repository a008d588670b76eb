"""Every public shape comes out as the record it stands for; every wrong option and row is named."""

import datasets
import pytest

from llama_align.data import Demonstration, Preference, RecordError, SourceError, load_records, write_jsonl

USER = {"role": "user", "content": "Why is the sky blue?"}
ASSISTANT = {"role": "assistant", "content": "Scattering."}
WORSE = {"role": "assistant", "content": "Paint."}
SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = {"default_grade": "better", "objective": "helpfulness"}
TRANSCRIPT = "\n\nHuman: Why is the sky blue?\n\nAssistant: "


def load(wanted, path, /, **options):
    return load_records([{"path": path, **options}], wanted)[0]


def pair(prompt=(USER,), **fields):
    row = {"prompt": list(prompt), "chosen": "Scattering.", "rejected": "Paint.", "grade": "better"}
    return Preference(**row | {"objective": "helpfulness", "source": "rows"} | fields)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(pair().to_dict(), pair(), id="our own"),
        pytest.param({"prompt": USER["content"], "chosen": "Scattering.", "rejected": "Paint."}, pair(), id="plain"),
        pytest.param({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [WORSE]}, pair(), id="conversational"),
        pytest.param({"chosen": [USER, ASSISTANT], "rejected": [USER, WORSE]}, pair(), id="implicit prompt"),
        pytest.param(
            {"prompt": USER["content"], "chosen": [SYSTEM, USER, ASSISTANT], "rejected": [SYSTEM, USER, WORSE]},
            pair([SYSTEM, USER]),
            id="prompt and whole dialogs",
        ),
        pytest.param({"chosen": TRANSCRIPT + "Scattering.", "rejected": TRANSCRIPT + "Paint."}, pair(), id="hh"),
        pytest.param(
            {
                "messages": [USER],
                "chosen": "Scattering.",
                "rejected": "Paint.",
                "chosen_safe": True,
                "rejected_safe": False,
            },
            pair(chosen_is_safe=True, rejected_is_safe=False),
            id="shared bundle",
        ),
        pytest.param(
            {"prompt": "Why is the sky blue?", "system": "Be brief.", "chosen": "Scattering.", "rejected": "Paint."},
            pair([SYSTEM, USER]),
            id="system column",
        ),
        pytest.param(
            {
                "prompt": [SYSTEM | {"content": ""}, USER | {"name": "Ann"}],
                "chosen": "Scattering.",
                "rejected": "Paint.",
            },
            pair(),
            id="an empty system message and keys of others",
        ),
    ],
)
def test_shapes_of_preferences(lines, row, expected):
    assert load("preference", lines(row), **PAIR) == [expected]


def test_hh_with_several_turns_and_with_a_prompt_of_its_own(lines):
    turns = "\n\nHuman: Hi\n\nAssistant: Hello: how can I help?\n\nHuman: Why is the sky blue?\n\nAssistant:"
    prompt = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello: how can I help?"}, USER]
    whole = {"chosen": turns + " Scattering.", "rejected": turns + " Paint."}
    split = {"prompt": turns, "chosen": " Scattering.", "rejected": " Paint."}
    assert load("preference", lines(whole), **PAIR) == [pair(prompt)]
    (record,) = load("preference", lines(split), format="hh", **PAIR)
    assert record.prompt == prompt
    assert load("prompt", lines(whole), kind="preference", objective="safety")[0].messages == prompt


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a", "rejected": "b"}, "field 'chosen': found nothing"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "field 'rejected': found ' '"),
        (
            {"prompt": "a", "chosen": [], "rejected": "b"},
            "field 'chosen': found an empty list, .* one message from the",
        ),
        ({"prompt": "a", "chosen": [USER], "rejected": [WORSE]}, "field 'chosen': found a list of 1, expected text or"),
        ({"chosen": "b", "rejected": "c"}, "field 'prompt': found an object with chosen, rejected"),
        ({"chosen": [USER, ASSISTANT], "rejected": [SYSTEM, WORSE]}, "field 'rejected': .* parts too early"),
        ({"chosen": TRANSCRIPT + "b", "rejected": "c"}, "field 'rejected': found 'c', expected a transcript"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "grade": "great"}, "field 'grade': found 'great'"),
    ],
)
def test_preferences_that_do_not_fit(lines, row, complaint):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = lines(good, row, good)
    with pytest.raises(RecordError, match=r"rows.jsonl, line 2, " + complaint):
        load("preference", path, **PAIR)
    records, report = load_records([{"path": path, "skip": "count", **PAIR}], "preference")
    assert (len(records), report.skipped) == (2, 1)
    assert "skipped 1: field" in str(report)
    assert "line 2)" in str(report)


def test_a_preference_without_any_grade_or_objective_is_refused(lines):
    path = lines({"prompt": "a", "chosen": "b", "rejected": "c"})
    with pytest.raises(RecordError, match="'grade': found nothing"):
        load("preference", path, objective="safety")
    with pytest.raises(RecordError, match="'objective': found nothing"):
        load("preference", path, default_grade="better")


def test_demonstrations_and_prompts(lines):
    expected = [Demonstration(messages=[USER, ASSISTANT], source="rows")]
    for row in (
        {"messages": [USER, ASSISTANT]},
        {"prompt": USER["content"], "completion": "Scattering."},
        {"prompt": USER["content"], "response": "Scattering.", "id": 3},
        {"prompt": [USER], "completion": [ASSISTANT]},
    ):
        assert load("demonstration", lines(row)) == expected
        assert load("prompt", lines(row), kind="demonstration", objective="safety")[0].messages == [USER]
    assert load("prompt", lines({"prompt": USER["content"]}), objective="helpfulness")[0].messages == [USER]
    assert load("demonstration", lines(pair().to_dict()), kind="preference") == expected
    with pytest.raises(RecordError, match="field 'completion': found ''"):
        load("demonstration", lines({"prompt": "a", "completion": ""}))
    with pytest.raises(RecordError, match=r"'messages\[1\].role': found 'assistant', expected 'user'"):
        load("prompt", lines({"messages": [USER, ASSISTANT]}), objective="safety")
    with pytest.raises(RecordError, match="found a document, expected what can serve as a prompt"):
        load("prompt", lines({"text": "a"}), kind="document", objective="safety")


def test_samples_serve_as_demonstrations(lines):
    row = {"prompt": [USER], "completion": "Scattering.", "finished": True, "checkpoint": "sft", "temperature": 1.0}
    row |= {"seed": 1, "rewards": {"helpfulness": 0.5}, "objective": "helpfulness", "task": {"family": "fact"}}
    assert load("sample", lines(row))[0].to_dict() == row
    assert load("demonstration", lines(row), kind="sample") == [Demonstration([USER, ASSISTANT], "rows", True)]
    assert load("prompt", lines(row), kind="sample")[0].task == {"family": "fact"}


def test_columns_and_templates(lines):
    row = {"Frage": "Why is the sky blue?", "about": "Sky.", "answers": ["Scattering."], "kind": None, "url": 3}
    columns = {"prompt": "{about}\n\n{Frage}{kind}", "completion": "{answers[0]}"}
    (record,) = load("demonstration", lines(row), columns=columns)
    assert [m["content"] for m in record.messages] == ["Sky.\n\nWhy is the sky blue?", "Scattering."]
    for wrong, complaint in [
        ({"prompt": "question"}, "'columns.prompt': found columns Frage, about, .*, expected 'question'"),
        ({"prompt": "{question}"}, "'columns.prompt': found columns Frage, .*, expected 'question'"),
        ({"prompt": "Frage", "completion": "{answers[4]}"}, "'columns.completion': found list index out of range"),
        ({"prompt": "{answers}"}, "'columns.prompt': found a list of 1 where the template needs text"),
        ({"prompt": "Frage", "completion": "answers"}, "field 'completion': found a list of 1"),
    ]:
        with pytest.raises(RecordError, match=complaint):
            load("demonstration", lines(row), columns=wrong)


def test_columns_hide_content_they_do_not_name(lines):
    row = {"messages": [SYSTEM], "text": "Why is the sky blue?", "answer": "Scattering."}
    (record,) = load("demonstration", lines(row), columns={"prompt": "text", "completion": "answer"})
    assert record.messages == [USER, ASSISTANT]


@pytest.mark.parametrize(
    ("grades", "row", "grade"),
    [
        ({"grade4": {4: "significantly_better", 1: "negligibly_better"}}, {"grade4": 4}, "significantly_better"),
        ({"grade4": {"4": "significantly_better", "1": "negligibly_better"}}, {"grade4": 1.0}, "negligibly_better"),
        ({"grade4": {4: "significantly_better"}}, {"grade4": None}, "slightly_better"),
        (
            {"score_gap": {"better": 1.5, "significantly_better": 3}},
            {"score_chosen": 9, "score_rejected": 6},
            "significantly_better",
        ),
        ({"score_gap": {"significantly_better": 3, "better": 1.5}}, {"score_chosen": 8, "score_rejected": 6}, "better"),
        ({"gap": {"significantly_better": 3, "negligibly_better": 0}}, {"gap": 0}, "negligibly_better"),
    ],
)
def test_grades_from_the_values_of_a_source(lines, grades, row, grade):
    row |= {"prompt": "a", "chosen": "b", "rejected": "c"}
    options = {"grades": grades, "default_grade": "slightly_better", "objective": "safety"}
    assert load("preference", lines(row), **options)[0].grade == grade


def test_values_that_no_grade_is_given_for(lines):
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "grade4": 7, "gap": -1, "score_chosen": "high"}
    for grades, complaint in [
        ({"grade4": {4: "better"}}, r"field 'grade4': found 7 \(int\), expected one of 4"),
        ({"gap": {"better": 0}}, r"field 'gap': found -1 \(int\), expected at least 0"),
        ({"score_gap": {"better": 0}}, "field 'score_chosen': found 'high', expected a number"),
    ]:
        with pytest.raises(RecordError, match=complaint):
            load("preference", lines(row), grades=grades, objective="safety")


def test_scored_answers_become_pairs(lines):
    scores = {"a": [("best", 4), ("good", 3), ("also good", 3)], "b": [("only", 2)], "c": [("bad", 0), ("fine", 2)]}
    rows = [{"prompt": p, "response": r, "helpfulness": s} for p, answers in scores.items() for r, s in answers]
    grades = {"score_gap": {"better": 2, "negligibly_better": 0}}
    records = load("preference", lines(*rows), grades=grades, objective="helpfulness")
    assert [(r.chosen, r.rejected, r.grade) for r in records] == [
        ("best", "good", "negligibly_better"),
        ("best", "also good", "negligibly_better"),
        ("fine", "bad", "better"),
    ]
    path = lines({"question": "a", "answer": "b", "note": 1}, {"question": "a", "answer": "c", "note": "high"})
    columns = {"prompt": "question", "completion": "answer", "score": "note"}
    with pytest.raises(RecordError, match="line 2, field 'score': found 'high', expected a number"):
        load("preference", path, columns=columns, format="scores", grades=grades, objective="safety")


def test_scored_answers_to_messages_are_paired_within_their_prompt_in_a_table_that_has_both_columns(lines):
    other = {"role": "user", "content": "Why is grass green?"}
    said = [(USER, "Scattering.", 2), (USER, "Paint.", 1), (other, "Chlorophyll.", 4), (other, "Paint.", 0)]
    rows = [{"prompt": None, "messages": [asked], "response": text, "score": score} for asked, text, score in said]
    assert load("preference", lines(*rows), format="scores", **PAIR) == [
        pair(),
        pair([other], chosen="Chlorophyll."),
    ]


@pytest.mark.parametrize("format", ["auto", "trl", "hh"])
def test_a_transcript_up_to_its_answer_is_a_dialog_whatever_the_format(lines, format):
    rows = {"chosen": " Scattering.", "rejected": " Paint.", "response": " Scattering."}
    path = lines({"prompt": TRANSCRIPT} | rows)
    (record,) = load("preference", path, format=format, **PAIR)
    assert record.prompt == [USER]
    (record,) = load("demonstration", path, format=format)
    assert record.messages[:1] == [USER]
    (record,) = load("prompt", lines({"prompt": "Human: what does this word mean?"}), objective="safety")
    assert record.messages == [{"role": "user", "content": "Human: what does this word mean?"}]


def test_dialogs_that_do_not_continue_their_prompt_are_refused(lines):
    row = {"prompt": [SYSTEM, USER], "chosen": [USER, ASSISTANT], "rejected": [USER, WORSE]}
    with pytest.raises(RecordError, match="'chosen': found a dialog that does not begin with the 2 messages of prompt"):
        load("preference", lines(row), **PAIR)
    whole = row | {"chosen": [SYSTEM, USER, ASSISTANT], "rejected": [SYSTEM, USER, WORSE]}
    assert load("preference", lines(whole), **PAIR) == [pair([SYSTEM, USER])]


def test_a_grade_is_read_from_a_column_named_like_content_and_from_none_that_is_not_there(lines):
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    path = lines({"question": USER["content"], "good": "Scattering.", "bad": "Paint.", "score": 3})
    options = {"columns": columns, "objective": "helpfulness", "default_grade": "slightly_better"}
    assert load("preference", path, grades={"score": {"better": 2}}, **options) == [pair()]
    with pytest.raises(SourceError, match="'grades': found 'scores', which is in no row, expected one of question"):
        load("preference", path, grades={"scores": {"better": 2}}, **options)


def test_filters_and_limits(lines):
    path = lines(*({"text": "x" * n, "lang": "en" if n % 2 else "de"} for n in range(1, 9)))
    assert [len(r.text) for r in load("document", path, where={"lang": "de"})] == [2, 4, 6, 8]
    assert [len(r.text) for r in load("document", path, limit=3, where={"lang": ["de", "fr"]})] == [2, 4, 6]
    records, report = load_records([{"path": path, "max_chars": 5, "name": "texts"}], "document")
    assert len(records) == 5
    assert "texts: left out 3: longer than 5 characters" in str(report)
    with pytest.raises(RecordError, match=r"'where\.tongue': found columns text, lang, expected 'tongue'"):
        load("document", path, where={"tongue": "de"})
    with pytest.raises(ValueError, match="no document in its 8 rows"):
        load("document", path, where={"lang": "fr"})


def test_strict_records(lines):
    path = lines(pair().to_dict() | {"extra": 1})
    assert load("preference", path) == [pair()]
    with pytest.raises(RecordError, match="field 'extra': found a field that is not known"):
        load("preference", path, format="records")


def test_parquet_and_saved_directories(tmp_path):
    table = datasets.Dataset.from_list([{"text": "one", "url": None}, {"text": "two", "url": "u"}])
    table.to_parquet(str(tmp_path / "t.parquet"))
    table.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(str(tmp_path / "splits"))
    for name in ("t.parquet", "plain", "splits"):
        assert [r.text for r in load("document", str(tmp_path / name))] == ["one", "two"]
    assert [r.text for r in load("document", str(tmp_path / "splits"), split="test")] == ["two"]
    with pytest.raises(ValueError, match="key 'split': found 'dev', expected one of train, test"):
        load("document", str(tmp_path / "splits"), split="dev")
    datasets.Dataset.from_list([{"text": 5}]).to_parquet(str(tmp_path / "t.parquet"))
    with pytest.raises(RecordError, match=r"t.parquet, row 0, field 'text': found 5"):
        load("document", str(tmp_path / "t.parquet"))


def test_paths_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("absent.jsonl", "./absent", "runs/absent", "a/b/c", str(tmp_path / "absent")):
        with pytest.raises(SourceError, match=f"data source {path}: there is no such file"):
            load("document", path)
    with pytest.raises(ValueError, match="a directory, but not one saved by datasets"):
        load("document", "runs")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="expected a file that ends in"):
        load("document", "notes.txt")


def test_a_hub_name_without_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"data source nobody/nothing: no local file.*HF_HUB_OFFLINE is set"):
        load("document", "nobody/nothing")


def test_variables_in_paths(lines, monkeypatch):
    path = lines({"text": "a"})
    folder, name = path.rsplit("/", 1)
    monkeypatch.setenv("LLAMA_ALIGN_TEST", folder)
    monkeypatch.delenv("LLAMA_ALIGN_NONE", raising=False)
    for variable in ("$LLAMA_ALIGN_TEST", "${LLAMA_ALIGN_TEST}", f"${{LLAMA_ALIGN_NONE:-{folder}}}"):
        assert len(load("document", f"{variable}/{name}")) == 1
    with pytest.raises(ValueError, match="the environment variable LLAMA_ALIGN_NONE is not set"):
        load("document", f"${{LLAMA_ALIGN_NONE}}/{name}")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"colums": {}}, "unknown key 'colums', known: path, name, split, kind, format, columns"),
        ({"kind": "pair"}, "key 'kind': found 'pair', expected auto or one of document, prompt"),
        ({"format": "csv"}, "key 'format': found 'csv', expected one of auto, records, trl"),
        ({"columns": {"promt": "a"}}, "key 'columns': .* not 'promt'"),
        ({"format": "columns"}, "key 'columns': found nothing, expected a mapping"),
        ({"grades": {"grade4": {4: "great"}}}, "key 'grades': .* expected one column with its table"),
        ({"grades": {"a": {4: "better"}, "b": {4: "better"}}}, "key 'grades'"),
        ({"grades": {"gap": {"better": "much"}}}, "key 'grades'"),
        ({"default_grade": "good"}, "key 'default_grade': found 'good', expected one of significantly_better"),
        ({"objective": "fun"}, "key 'objective': found 'fun', expected one of helpfulness, safety"),
        ({"limit": 0}, "key 'limit': found 0 .*, expected an integer above 0"),
        ({"limit": 2.5}, "key 'limit': found 2.5"),
        ({"columns": {"text": 3}}, "key 'columns': .* names of columns"),
        ({"columns": "text"}, "key 'columns': found 'text', expected an object"),
        ({"where": ["lang"]}, "key 'where': found a list of 1, expected an object"),
        ({"weight": -1}, "key 'weight': found -1"),
        ({"skip": "all"}, "key 'skip': found 'all', expected error or count"),
        ({"path": 3}, "found 3 .int. as path, expected text"),
        ({"path": " "}, "key 'path': found .*expected a file, a folder or a name on the Hub"),
    ],
)
def test_options_that_do_not_fit(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_records([{"path": "x.jsonl", **options}], "document")


def test_sources_that_are_no_sources(lines):
    with pytest.raises(ValueError, match="data source: found a list of 1, expected a path or an object with a path"):
        load_records([["x.jsonl"]], "document")
    with pytest.raises(ValueError, match="scores make preferences, not a demonstration"):
        load("demonstration", lines({"prompt": "a", "response": "b", "score": 1}), format="scores")


@pytest.mark.parametrize(
    ("kind", "row", "field"),
    [
        ("demonstration", {"prompt": [], "completion": "Scattering."}, "prompt"),
        ("prompt", {"messages": []}, "messages"),
        ("prompt", {"messages": [SYSTEM | {"content": []}, USER]}, r"messages\[0\]\.content"),
        ("prompt", {"messages": [SYSTEM | {"content": 0}, USER]}, r"messages\[0\]\.content"),
    ],
)
def test_what_is_empty_and_no_text_is_refused(lines, kind, row, field):
    with pytest.raises(RecordError, match=rf"line 1, field '{field}': found .*, expected text"):
        load(kind, lines(row), objective="helpfulness")


def test_a_word_that_yaml_reads_as_false_is_no_text_to_choose_rows_by(tmp_path):
    rows = [{"text": "Ja.", "lang": "no"}, {"text": "Yes.", "lang": "en"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    source = {"path": str(tmp_path / "rows.jsonl"), "where": {"lang": [False, "en"]}}
    with pytest.raises(SourceError, match=r"rows.jsonl, line 1, key 'where.lang': found true or false, expected text"):
        load_records([source], "document")
    assert len(load_records([source | {"where": {"lang": ["no", "en"]}}], "document")[0]) == 2
