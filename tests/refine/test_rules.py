"""Rules on records with scores that are known: what stays, in what order, and what the ledger says."""

import pytest

from llama_align.data import Demonstration, Preference, Sample
from llama_align.recipe import RecipeError
from llama_align.refine import rules
from llama_align.refine.apply import decisions, refine
from llama_align.refine.asking import lines_in, number_up_to, one_of
from llama_align.refine.rows import Row
from llama_align.refine.scores import Scores, ranks


def dialog(question: str, answer: str) -> Demonstration:
    return Demonstration([{"role": "user", "content": question}, {"role": "assistant", "content": answer}], "test")


def pair(question: str, chosen: str, rejected: str) -> Preference:
    return Preference([{"role": "user", "content": question}], chosen, rejected, "better", "helpfulness")


class Rewards:
    """A reward is the number that an answer ends with."""

    main = "r"

    def __call__(self, samples):
        return {"r": [float(sample.completion.split()[-1]) for sample in samples]}


class Canned:
    """A checkpoint that says to every question what a function of its text says."""

    def __init__(self, say):
        self.say, self.asked = say, []

    def __call__(self, questions, answers=1, temperature=0.0, tokens=None, stage=0):
        texts = [question[0]["content"] for question in questions]
        self.asked += texts
        said = [[self.say(text)] * answers for text in texts]
        return [[answered(text) for text in group if text is not None] for group in said]


def answered(text: str, finished: bool = True) -> Sample:
    return Sample([{"role": "user", "content": "?"}], text, finished, "m", 0.0, 0, {}, "helpfulness")


def scores(say=None, labels=None, answers=()) -> Scores:
    return Scores(Rewards(), Canned(say) if say else None, labels, answers, "helpfulness", {}, "error")


def apply(records, *listed, using=None, seed=0):
    rows = [Row(number, record) for number, record in enumerate(records)]
    kept, tallies = refine(rows, rules.parse(list(listed)), using or scores(), None, seed)
    return [row.number for row in kept], tallies, rows


def test_clean_changes_all_that_the_assistant_says_and_nothing_else():
    record = Demonstration(
        [
            {"role": "user", "content": "Hi! \U0001f600"},
            {"role": "assistant", "content": "Hi! Yes! \U0001f600", "end": "eom"},
            {"role": "ipython", "content": "!! \U0001f600"},
            {"role": "assistant", "content": "Done!!", "tool_calls": [{"name": "f", "arguments": {"a": "b!"}}]},
        ],
        "people",
        finished=False,
    )
    kept, (tally,), (row,) = apply([record], {"rule": "clean", "exclamations": 0})
    said = [message["content"] for message in row.record.messages]
    assert said == ["Hi! \U0001f600", "Hi. Yes.", "!! \U0001f600", "Done."]
    assert row.record.messages[3]["tool_calls"] == record.messages[3]["tool_calls"]
    assert (row.record.finished, row.record.source, kept) == (False, "people", [0])
    assert tally.to_dict()["changed"] == {"emoji": 1, "exclamation marks": 1}


def test_clean_drops_what_says_nothing_any_more_and_pairs_that_became_equal():
    records = [pair("a", "Yes \U0001f600", "Yes"), pair("b", "\U0001f600", "No"), pair("c", "Yes", "No")]
    kept, (tally,), _ = apply(records, {"rule": "clean"})
    assert kept == [2]
    assert tally.dropped == {"equal answers once cleaned": 1, "nothing left once cleaned": 1}


def test_a_samples_rewards_were_another_answers_once_it_is_cleaned():
    sample = Sample([{"role": "user", "content": "?"}], "Yes!!", True, "m", 1.0, 0, {"r": 2.0}, "safety", 1, {"a": 1})
    _, _, (row,) = apply([sample], {"rule": "clean"})
    assert (row.record.completion, row.record.rewards, row.record.task) == ("Yes!", {}, {"a": 1})


def test_balance_leaves_a_share_of_what_is_left_and_those_of_the_highest_worth():
    records = [dialog(f"q{n}", f"I'm sorry {n}") for n in range(10)] + [dialog(f"p{n}", f"Fine {n}") for n in range(8)]
    kept, tallies, _ = apply(
        records, {"rule": "quality", "drop": False}, {"rule": "balance", "share": 0.2, "phrases": "I'm sorry"}
    )
    assert kept == [8, 9, *range(10, 18)], "two of ten are a fifth; without their scores 0 and 1 would have stayed"
    assert tallies[1].facts == {"with a phrase": 10, "kept of these": 2}
    assert apply(records, {"rule": "balance", "share": 0.2})[0][:2] == [0, 1]


def test_quality_by_either_of_two_signals_as_in_the_paper_or_by_both():
    records = [dialog(f"q{n}", f"{n}") for n in range(8)]

    def say(text):
        return (
            "3"
            if "assistant: 0" in text or "assistant: 7" in text
            else "about 2 or 3"
            if "assistant: 1" in text
            else "1"
        )

    either = {"rule": "quality", "by": ["reward", "model"], "top": 0.25}
    kept, (tally,), rows = apply(records, either, using=scores(say))
    assert kept == [0, 6, 7]
    assert tally.facts == {"without a reward": 0, "without rating": 1} | {
        "good by reward": 2, "good by model": 2, "good by both": 1}  # fmt: skip
    assert rows[7].found["quality"] == 1.0
    assert rows[1].found["quality"] == 2 / 8, "without points the reward's rank alone"
    assert apply(records, either | {"union": "both"}, using=scores(say))[0] == [7]
    kept, _, rows = apply(records, {"rule": "quality", "drop": False})
    assert (kept, rows[0].found["quality"]) == (list(range(8)), 1 / 8)


def test_difficulty_by_points_intentions_and_the_spread_of_rewards():
    records = [dialog(f"q{n}", f"{n}") for n in range(4)]

    def say(text):
        n = int(text.split("user: q")[1][0])
        return "\n".join(f"- part {i}" for i in range(n + 1)) if "intention" in text else str(min(3, n))

    answers = [
        Sample([{"role": "user", "content": f"q{n}"}], f"{n * k}", True, "m", 1.0, 0, {}, "helpfulness")
        for n in (0, 1, 3)
        for k in (-1, 1)
    ]
    using = scores(say, answers=answers)
    rule = {"rule": "difficulty", "by": ["model", "intentions", "spread"], "hardest": 0.5}
    kept, (tally,), rows = apply(records, rule, using=using)
    assert kept == [2, 3]
    assert [row.found["intentions"] for row in rows] == [1, 2, 3, 4]
    assert [row.found["spread"] for row in rows] == [0.0, 1.0, None, 3.0]
    assert tally.facts["without spread"] == 1


def test_worst_pairs_go_by_share_or_by_gap():
    records = [pair("a", "5", "1"), pair("b", "1", "3"), pair("c", "2", "2.5"), pair("d", "4", "1")]
    kept, (tally,), rows = apply(records, {"rule": "worst_pairs", "drop": 0.25})
    assert kept == [0, 2, 3]
    assert tally.facts == {"without a reward": 0, "chosen scores lower": 2}
    assert [row.found["gap"] for row in rows] == [4, -2, -0.5, 3]
    assert apply(records, {"rule": "worst_pairs", "gap": 0.0})[0] == [0, 3]


def test_topics_by_a_classifier_and_by_a_checkpoint_down_to_their_shares():
    records = [dialog(f"{'sum' if n < 6 else 'poem'} {n}", f"{n}") for n in range(10)]

    def labels(texts):
        return ["maths" if "sum" in text else "art" for text in texts]

    rule = {"rule": "topics", "shares": {"maths": 0.5}}
    quality = {"rule": "quality", "drop": False}
    kept, tallies, _ = apply(records, quality, rule, using=scores(labels=labels))
    assert kept == [2, 3, 4, 5, 6, 7, 8, 9], "four of eight, those of the highest reward"
    assert tallies[1].facts["topics"] == {"art": 4, "maths": 6}

    def say(text):
        return "maths." if "sum" in text else "maths or art" if "poem 6" in text else "Art"

    rule = {"rule": "topics", "classes": ["maths", "art"], "keep": ["art"]}
    kept, (tally,), rows = apply(records, rule, using=scores(say))
    assert kept == [7, 8, 9]
    assert rows[6].found["topic"] == "other"
    assert tally.facts["without topic"] == 1


def test_distinct_keeps_the_one_of_the_highest_worth_of_those_that_are_alike():
    pytest.importorskip("sklearn", reason="needs the extra 'curation'")
    subjects = [" ".join(f"word{subject}x{n}" for n in range(12)) for subject in range(12)]
    records = [dialog(f"Tell of {subject}", f"It is {n}") for n, subject in enumerate(subjects)]
    records += [dialog(f"Tell about {subject}", f"It is {n + 20}") for n, subject in enumerate(subjects[:2])]
    rule = {"rule": "distinct", "similarity": 0.6, "dimensions": 16}
    kept, (_, tally), _ = apply(records, {"rule": "quality", "drop": False}, rule)
    assert kept == list(range(2, 14)), "of the first two the copies have the higher reward"
    assert tally.dropped == {"near in meaning": 2}
    assert tally.facts == {"clusters": 1, "ordered by": "quality"}
    assert apply(records, rule)[0] == list(range(12))


def test_few_of_many_evenly_over_topics_and_as_many_by_chance():
    records = [dialog(f"{'sum' if n < 6 else 'poem'} {n}", f"{n}") for n in range(9)]
    listed = [{"rule": "quality", "drop": False}, {"rule": "topics"}, {"rule": "best", "count": 4, "even": True}]
    kept, tallies, rows = apply(records, *listed, using=scores(labels=lambda texts: [t[6] for t in texts]))
    assert kept == [4, 5, 7, 8]
    found = decisions(rows, tallies)
    assert found[0] == {"row": 0, "dropped": "best: not among the best", "topic": "s", "reward": 0.0, "quality": 1 / 9}
    assert [row["row"] for row in found if row["dropped"] is None] == kept
    assert apply(records, listed[0], {"rule": "best", "share": 0.2})[0] == [7, 8]
    drawn = [apply(records, {"rule": "chance", "count": 4}, seed=seed)[0] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[2]) == 4


def test_what_is_read_from_answers():
    assert [number_up_to(3)(text) for text in ("3", "I say 2.", "2 or 3", "4", "2.5", "none", "3/3")] == [
        *(3, 2, None, None, None, None, 3)]  # fmt: skip
    assert [lines_in(text) for text in ("- a\n- b\n", "1. a\n2) A\n", " \n")] == [2, 1, None]
    read = one_of(["maths", "applied maths", "art"])
    assert [read(text) for text in ("Applied maths.", "maths", "art, maths", "party")] == [
        *("applied maths", "maths", None, None)]  # fmt: skip
    assert ranks([3.0, None, 1.0, 3.0]) == [1.0, None, 1 / 3, 1.0]


WRONG = [
    ([], "rules: found none, expected at least one of clean, balance"),
    ([{"rule": "shine"}], r"rules\[0\], key 'rule': found 'shine', expected one of clean"),
    ([{"rule": "clean"}, {"rule": "quality", "tpo": 1}], r"rules\[1\] \(quality\), key 'tpo': unknown, known: by, top"),
    ([{"rule": "quality", "top": 0}], r"key 'top': found 0, expected a number above 0 and at most 1"),
    ([{"rule": "quality", "by": ["taste"]}], "key 'by': found .*, expected some of reward, model, each once"),
    ([{"rule": "quality", "union": "or"}], "key 'union': found 'or', expected"),
    ([{"rule": "clean", "exclamations": -1}], "key 'exclamations': found -1, expected a number of at least 0"),
    ([{"rule": "balance", "phrases": [" "]}], "key 'phrases': found .*, expected at least one, none of them empty"),
    ([{"rule": "topics", "shares": {"a": 2}}], "key 'shares.a': found 2, expected a number above 0 and at most 1"),
    ([{"rule": "topics", "classes": ["a"]}], "key 'classes': found .*, expected two or more that differ"),
    ([{"rule": "worst_pairs"}], "key 'drop, gap': found neither, expected one of them"),
    ([{"rule": "chance", "count": 1, "share": 0.5}], "key 'count, share': found count and share, expected one of them"),
    ([{"rule": "best", "count": 1}], r"rules\[0\] \(best\): found no rule quality or difficulty above it"),
    ([{"rule": "quality"}, {"rule": "best", "count": 1, "even": True}], "'even': found no rule topics above it"),
]


@pytest.mark.parametrize(("listed", "said"), WRONG)
def test_a_rule_that_does_not_fit_is_refused_by_name(listed, said):
    with pytest.raises(RecipeError, match=said):
        rules.parse(listed)


LACKING = [
    ({"rule": "worst_pairs", "gap": 0}, "demonstration", {"reward_models": {"r": "a"}}, "expected preference"),
    ({"rule": "quality"}, "demonstration", {}, r"rules\[0\] \(quality\): found no reward_models"),
    ({"rule": "difficulty", "by": "spread"}, "demonstration", {"reward_models": {"r": "a"}}, "found no samples"),
    ({"rule": "topics"}, "sample", {}, "found no classifier"),
    ({"rule": "clean"}, "sample", {"model": "m"}, "model: found 'm', expected none; no rule reads it"),
    (
        {"rule": "quality"},
        "sample",
        {"reward_models": {"r": "a"}, "embedder": "e"},
        "embedder: found 'e', expected none",
    ),
]


@pytest.mark.parametrize(("rule", "kind", "given", "said"), LACKING)
def test_an_option_that_a_rule_lacks_or_that_no_rule_reads_is_refused(rule, kind, given, said):
    empty = dict.fromkeys(("reward_models", "samples", "model", "classifier", "embedder"))
    with pytest.raises(RecipeError, match=said):
        rules.check(rules.parse([rule]), kind, empty | given)
