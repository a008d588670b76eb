"""Demonstrations made from others: what each stage drops, and what the demonstrations say."""

from types import SimpleNamespace

import pytest

from llama_align.data import Document
from llama_align.refine import synthesis

from .test_rules import Canned, answered, dialog

ARGS = {"answers": 2, "temperature": 1.0, "verify": "overlap", "least": 0.5, "keep": 1.0, "direction": "forward"}


def args(**changes):
    return SimpleNamespace(**ARGS | {"seed": 0, "share": 1.0} | changes)


class Tries(Canned):
    """Says other things to the first question, one for every try."""

    def __init__(self, tries, say):
        super().__init__(say)
        self.tries = tries

    def __call__(self, questions, answers=1, temperature=0.0, **more):
        if answers == 1:
            return super().__call__(questions, **more)
        self.asked += [question[0]["content"] for question in questions]
        return [[answered(text, finished=text != "cut") for text in self.tries[:answers]] for _ in questions]


def made(verify="overlap", **changes):
    def say(text):
        if text.startswith("Write what"):
            return "print 1 + 2" if text.endswith("good") else "who knows"
        return "10" if "again:\nprint 1 + 2" in text else "3"

    ask = Tries(["bad", "good", "good", "cut", " "], say)
    prompts = synthesis.PROMPTS["back_translation"]
    documents = [Document("print 1 + 2"), Document("other <text>")]
    return synthesis.back_translation(documents, ask, args(answers=5, verify=verify, **changes), prompts), ask


@pytest.mark.parametrize("verify", ["overlap", "model"])
def test_what_translates_back_to_its_source_is_kept(verify):
    (rows, tallies), ask = made(verify)
    (row,) = [row for row in rows if row.found["of"] == 0]
    question, answer = row.record.messages
    assert question["content"].endswith("\n\nprint 1 + 2")
    assert (answer["content"], row.found["score"]) == ("good", 1.0)
    assert [tally.rule for tally in tallies] == ["generate", "back-translate", "verify", "best"]
    assert tallies[0].dropped == {"said before": 2, "cut or empty": 4}
    assert [tally.rows_out for tally in tallies[:2]] == [4, 4]
    assert "other <text>" in ask.asked[1], "a mark in a text is no place of a template"


def test_the_original_can_be_the_answer():
    (rows, _), _ = made(direction="back")
    assert [message["content"] for message in rows[0].record.messages] == [
        "Write what this explanation describes, and nothing else.\n\ngood",
        "print 1 + 2",
    ]


def test_a_paraphrase_has_the_answer_of_its_original_and_asks_for_the_same():
    def say(text):
        return "No." if "Second:\nWhat is love" in text else "Yes, they do"

    ask = Tries(["Where is the home of Ann?", "where does  ann live?", "What is love?"], say)
    record = dialog("Where does Ann live?", "In Bern.")
    rows, tallies = synthesis.paraphrase([record], ask, args(answers=3), synthesis.PROMPTS["paraphrase"])
    assert [row.record.messages[0]["content"] for row in rows] == ["Where is the home of Ann?"]
    assert rows[0].record.messages[1] == record.messages[1]
    assert tallies[0].dropped == {"said before": 1}
    assert tallies[1].dropped == {"asks for something else": 1}


def test_synonyms_are_whole_words_in_the_case_they_had_and_variants_differ():
    table = {"home": ["house"], "home town": ["city"], "big": ["large", "great"]}
    records = [dialog("Big home town? Homes, big!", "A big home."), dialog("Why?", "So.")]
    rows, (tally,) = synthesis.synonyms(records, table, args(answers=3))
    texts = {row.record.messages[0]["content"] for row in rows}
    assert len(texts) == len(rows) == 3
    assert texts <= {f"{a} city? Homes, {b}!" for a in ("Large", "Great") for b in ("large", "great")}
    assert all(row.record.messages[1]["content"] == "A big home." for row in rows)
    assert tally.facts == {"without such a word": 1}
    assert rows[0].record.source == "synthetic/synonyms"


def test_overlap_is_f1_of_words_and_signs():
    assert synthesis.overlap("a b c", "a b d") == pytest.approx(2 / 3)
    assert synthesis.overlap("x = 1", "X=1") == 1.0
    assert synthesis.overlap("a", "b") == 0.0
