"""IFEval's rules on answers that follow them and answers that almost do."""

import gzip
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("py3langid", reason="needs the extra 'benchmarks'")

from llama_align.benchmarks.instructions import RULES, followed, looser

CASES = {
    "keywords:existence": ({"keywords": ["cat", "dog"]}, "A Cat and a dog.", "A cat."),
    "keywords:frequency": ({"keyword": "cat", "relation": "at least", "frequency": 2}, "cat, Cat", "cat"),
    "keywords:forbidden_words": ({"forbidden_words": ["cat"]}, "a category", "a cat."),
    "keywords:letter_frequency": ({"letter": "q", "let_relation": "less than", "let_frequency": 2}, "Queue", "QQ q"),
    "language:response_language": (
        {"language": "de"},
        "Der Hund läuft über die Straße und bellt den Nachbarn an.",
        "The dog runs across the street and barks at the neighbour.",
    ),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3},
        'It cost 3.50 dollars. "Really?" she said.',
        "One. Two! Three?",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "one\n***\ntwo", "one\n***\n\n***\ntwo"),
    "length_constraints:number_words": ({"relation": "at least", "num_words": 3}, "one, two three", "one two"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        'First.\n\n"Then, it went.',
        "First.\n\nThereafter it went.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] and [address]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, "Yes.\nP.S. no", "Yes. PS no"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n- b", "* a\n** b"),
    "detectable_format:constrained_response": ({}, "My answer is yes.", "Yes."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and **b**", "*a* and ** **"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1 a\nSECTION 2 b",
        "SECTION 1 a",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<On cats>>\nThey sleep.", "<< >> They sleep."),
    "combination:two_responses": ({}, "one\n******\ntwo", "one\n******\none"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say it."}, "say it. It.", "It."),
    "startend:end_checker": ({"end_phrase": "Any questions?"}, 'Yes. any questions?"', "Any questions? Yes"),
    "change_case:capital_word_frequency": (
        {"capital_relation": "at least", "capital_frequency": 2},
        "A BIG-ONE",
        "A big ONe",
    ),
    "change_case:english_capital": ({}, "THIS IS A SENTENCE IN ENGLISH.", "THIS IS a SENTENCE IN ENGLISH."),
    "change_case:english_lowercase": ({}, "this is a sentence in english.", "This is a sentence in english."),
    "punctuation:no_comma": ({}, "one; two", "one, two"),
    "startend:quotation": ({}, '"quoted"', 'not "quoted"'),
}


def test_every_rule_has_a_case():
    assert {name.partition(":")[2] for name in CASES} == set(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_tells_what_follows_it(name):
    given, right, wrong = CASES[name]
    assert followed(name, given, "?", right)
    assert not followed(name, given, "?", wrong)
    assert not followed(name, given, "?", "  "), "nothing follows nothing"


def test_what_has_no_rule_is_refused():
    with pytest.raises(ValueError, match="instruction_id_list: found 'a:b', expected one of existence"):
        followed("a:b", {}, "?", "text")


def test_loosely_the_frame_of_an_answer_does_not_count():
    assert '{"a": 1}' in looser('Sure:\n{"a": 1}\nBye')
    assert "bold" in looser("**bold**")


@pytest.mark.shared
def test_every_instruction_of_the_benchmark_has_a_rule():
    shared = Path(os.environ.get("LLAMA_ALIGN_SHARED", Path(__file__).parents[3] / "shared"))
    file = shared / "data" / "eval" / "ifeval_541.jsonl.gz"
    if not file.is_file():
        pytest.skip("the shared data is not beside the checkout (set LLAMA_ALIGN_SHARED)")
    with gzip.open(file, "rt") as lines:
        for row in map(json.loads, lines):
            for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
                followed(name, given, row["prompt"], "An answer. P.S. none")
