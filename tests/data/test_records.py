"""Every record is read back as it was written, and every way of not fitting is refused in words that help."""

import pytest

from llama_align.data import GRADES, KINDS, Demonstration, Document, Preference, Prompt, RecordError, Sample

USER = {"role": "user", "content": "Why is the sky blue?"}
ASSISTANT = {"role": "assistant", "content": "Rayleigh scattering."}

ROWS = {
    "document": {"text": "Once upon a time."},
    "prompt": {"messages": [USER], "objective": "helpfulness"},
    "demonstration": {"messages": [USER, ASSISTANT]},
    "preference": {
        "prompt": [USER],
        "chosen": "Scattering.",
        "rejected": "Paint.",
        "grade": "better",
        "objective": "helpfulness",
    },
    "sample": {
        "prompt": [USER],
        "completion": "Scattering.",
        "finished": True,
        "checkpoint": "runs/sft",
        "temperature": 1.0,
        "seed": 7,
        "rewards": {"helpfulness": 0.25},
        "objective": "helpfulness",
    },
}
OPTIONAL = {
    "document": {"source": "books", "url": "https://example.org", "date": "1901"},
    "prompt": {"source": "people", "task": {"family": "fact", "answer": "red"}},
    "demonstration": {"source": "people", "finished": False},
    "preference": {
        "chosen_is_safe": True,
        "rejected_is_safe": False,
        "annotator": "a1",
        "round": 2,
        "source": "people",
        "edited": "Rayleigh scattering.",
        "chosen_finished": False,
        "rejected_finished": True,
    },
    "sample": {"round": 2, "task": {"family": "fact"}},
}


@pytest.mark.parametrize("kind", ROWS)
def test_written_and_read_back(kind):
    bare, full = ROWS[kind], ROWS[kind] | OPTIONAL[kind]
    for row in (bare, full):
        assert KINDS[kind].from_dict(row).to_dict() == row
    nulls = bare | dict.fromkeys(OPTIONAL[kind])
    assert KINDS[kind].from_dict(nulls).to_dict() == bare


@pytest.mark.parametrize("kind", ROWS)
def test_every_required_field_is_missed(kind):
    for name in ROWS[kind]:
        for row in ({k: v for k, v in ROWS[kind].items() if k != name}, ROWS[kind] | {name: None}):
            with pytest.raises(RecordError, match=rf"^f.jsonl, line 3, field '{name}': found nothing, expected "):
                KINDS[kind].from_dict(row, "f.jsonl, line 3")


@pytest.mark.parametrize("kind", ROWS)
def test_every_field_refuses_a_wrong_type(kind):
    row = ROWS[kind] | OPTIONAL[kind]
    for name, value in row.items():
        wrong = 5 if isinstance(value, bool | str | dict | list) else "five"
        with pytest.raises(RecordError, match=rf"field '{name}': found "):
            KINDS[kind].from_dict(row | {name: wrong})


def test_the_message_of_an_unknown_grade():
    with pytest.raises(RecordError) as caught:
        Preference.from_dict(ROWS["preference"] | {"grade": "great"}, "pairs.jsonl, line 17")
    assert str(caught.value) == (
        "pairs.jsonl, line 17, field 'grade': found 'great', expected one of " + ", ".join(GRADES)
    )
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("cls", "change", "complaint"),
    [
        (Preference, {"chosen": " \n"}, r"field 'chosen': found ' \\n', expected text that is not empty"),
        (Preference, {"rejected": ""}, "field 'rejected': found '', expected text that is not empty"),
        (Preference, {"prompt": []}, "field 'prompt': found an empty list, expected a list of messages"),
        (Preference, {"prompt": "Why?"}, r"field 'prompt': found 'Why\?', expected a list of messages"),
        (Preference, {"objective": "fun"}, "field 'objective': found 'fun', expected one of helpfulness, safety"),
        (Preference, {"chosen_is_safe": "yes"}, "field 'chosen_is_safe': found 'yes', expected true or false"),
        (Preference, {"round": True}, r"field 'round': found True \(bool\), expected an integer"),
        (
            Preference,
            {"chosen_is_saef": True},
            "field 'chosen_is_saef': found a field that is not known, expected only",
        ),
        (Prompt, {"messages": [USER, ASSISTANT]}, r"'messages\[1\].role': found 'assistant', expected 'user'"),
        (Demonstration, {"messages": [USER]}, r"'messages\[0\].role': found 'user', expected 'assistant'"),
        (Demonstration, {"messages": [USER, {"role": "bot", "content": "x"}]}, r"\[1\].role': found 'bot', .* ipython"),
        (Demonstration, {"messages": [USER, {"role": "assistant", "content": ""}]}, r"\[1\].content': found ''"),
        (Demonstration, {"messages": ["Hello"]}, r"'messages\[0\]': found 'Hello', expected an object with role"),
        (Demonstration, {"messages": [USER | {"x": "y"}]}, r"\[0\]': found an object with role, content, x"),
        (Document, {"text": "  "}, "field 'text': found '  '"),
        (Sample, {"completion": 3}, "field 'completion': found 3"),
        (Sample, {"rewards": {"helpfulness": float("nan")}}, "field 'rewards': .* finite numbers"),
        (Sample, {"temperature": -1}, "field 'temperature': .* at least 0"),
    ],
)
def test_what_does_not_fit_is_named(cls, change, complaint):
    with pytest.raises(RecordError, match=complaint):
        cls.from_dict(ROWS[cls.kind] | change)


def test_a_long_text_is_not_quoted_in_full():
    with pytest.raises(RecordError) as caught:
        Preference.from_dict(ROWS["preference"] | {"grade": "x" * 1000})
    assert len(str(caught.value)) < 250
