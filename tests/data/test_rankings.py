"""Ranked rows of a reward model: every known pair once, answers shuffled, prompts and labels where they belong."""

import pytest

from llama_align.chat import ContractError, encode_answer, render_prompt
from llama_align.data import (
    GRADES,
    UNGRADED,
    UNKNOWN,
    LeftOut,
    PairsLeftOut,
    Preference,
    RecordError,
    preference_rows,
    ranking_rows,
)
from llama_align.trainers import margin_table

ASK = [{"role": "user", "content": "bado?"}]
EDITED = Preference(ASK, "kilu", "mete", "better", "helpfulness", True, False, edited="kilu nora")
SECOND = Preference(ASK, "kilu", "sivu", "negligibly_better", "helpfulness")


def pairs_of(tokenizer, row) -> set:
    """(better text, worse text, grade, margin) of a row."""
    prompt = len(render_prompt(tokenizer, ASK))
    texts = [tokenizer.decode(ids[prompt:], skip_special_tokens=True) for ids in row["answers_ids"]]
    columns = (row[name] for name in ("better", "worse", "grade", "margin"))
    return {(texts[b], texts[w], grade, margin) for b, w, grade, margin in zip(*columns, strict=True)}


def test_edited_is_above_chosen_above_rejected(tokenizer):
    (row,), left_out = ranking_rows([EDITED], tokenizer, 100, margin_table("large"))
    assert left_out == LeftOut(0, 0, 0)
    better = GRADES.index("better")
    assert pairs_of(tokenizer, row) == {
        ("kilu", "mete", better, 2.0),
        ("kilu nora", "mete", better, 2.0),
        ("kilu nora", "kilu", UNGRADED, 0.0),
    }
    labels = {tokenizer.decode(ids[-3:]): label for ids, label in zip(row["answers_ids"], row["is_safe"], strict=True)}
    assert sorted(labels.values()) == [UNKNOWN, 0, 1]
    assert row["prompt_length"] == len(render_prompt(tokenizer, ASK))


def test_all_answers_of_a_prompt_share_a_row_if_asked(tokenizer):
    records = [EDITED, SECOND, Preference([{"role": "user", "content": "other"}], "a", "b", "better", "helpfulness")]
    assert len(ranking_rows(records, tokenizer, 100)[0]) == 3
    rows = list(ranking_rows(records, tokenizer, 100, margin_table("small"), listwise=True)[0])
    assert len(rows) == 2
    assert len(rows[0]["answers_ids"]) == 4  # the chosen answer of both records is one
    assert len(pairs_of(tokenizer, rows[0])) == 4
    safety = Preference(ASK, "kilu", "mete", "better", "safety")
    assert len(ranking_rows([EDITED, safety], tokenizer, 100, listwise=True)[0]) == 2  # another objective, another row


def test_answers_are_shuffled_and_a_seed_gives_one_order(tokenizer):
    records = [Preference(ASK, f"kilu {i}", "mete", "better", "helpfulness") for i in range(40)]
    rows = ranking_rows(records, tokenizer, 100, seed=1)[0]
    places = [row["better"][0] for row in rows]
    assert 8 < sum(places) < 32
    assert places == [row["better"][0] for row in ranking_rows(records, tokenizer, 100, seed=1)[0]]
    assert places != [row["better"][0] for row in ranking_rows(records, tokenizer, 100, seed=2)[0]]


def test_rows_too_long_are_refused_or_counted(tokenizer):
    long = Preference(ASK, "kilu " * 50, "mete", "better", "helpfulness")
    with pytest.raises(RecordError, match="chosen or rejected"):
        ranking_rows([EDITED, long], tokenizer, 40)
    rows, dropped = ranking_rows([EDITED, long], tokenizer, 40, too_long="drop")
    assert (len(rows), dropped) == (1, LeftOut(1, 0, 0))
    with pytest.raises(RecordError, match="no pair left of 1: 1 longer than 40 tokens, the longest"):
        ranking_rows([long], tokenizer, 40, too_long="drop")


def test_an_answer_too_long_leaves_the_others_of_its_prompt(tokenizer):
    long = Preference(ASK, "nora", "kilu " * 50, "better", "helpfulness")
    rows, left_out = ranking_rows([EDITED, SECOND, long], tokenizer, 40, too_long="drop", listwise=True)
    # "nora" was only ever compared with the answer that is gone
    assert (len(rows), left_out) == (1, LeftOut(0, 1, 0))
    wanted, _ = ranking_rows([EDITED, SECOND], tokenizer, 40, listwise=True)
    assert pairs_of(tokenizer, rows[0]) == pairs_of(tokenizer, wanted[0])
    assert len(rows[0]["answers_ids"]) == len(rows[0]["is_safe"]) == 4
    edited = Preference(ASK, "kilu", "mete", "better", "helpfulness", edited="nora " * 50)
    rows, left_out = ranking_rows([edited], tokenizer, 40, too_long="drop")
    assert (pairs_of(tokenizer, rows[0]), left_out.answers) == ({("kilu", "mete", GRADES.index("better"), 0.0)}, 1)


@pytest.mark.parametrize("listwise", [False, True])
def test_equal_answers_make_no_pair_and_are_counted(tokenizer, listwise):
    better = GRADES.index("better")
    same = Preference(ASK, " kilu ", "kilu", "better", "helpfulness")
    back = Preference(ASK, "kilu", "mete", "better", "helpfulness", edited="mete")
    improved = Preference(ASK, "kilu", "kilu", "better", "helpfulness", edited="nora")
    rows, left_out = ranking_rows([same, back], tokenizer, 100, listwise=listwise)
    assert (len(rows), left_out) == (1, LeftOut(0, 0, 2))
    assert pairs_of(tokenizer, rows[0]) == {("kilu", "mete", better, 0.0)}
    rows, left_out = ranking_rows([improved], tokenizer, 100, listwise=listwise)
    assert pairs_of(tokenizer, rows[0]) == {("nora", "kilu", UNGRADED, 0.0)}
    assert left_out.equal == 1
    with pytest.raises(RecordError, match="no pair left of 1: 1 of equal answers, expected some"):
        ranking_rows([same], tokenizer, 100, listwise=listwise)


@pytest.mark.parametrize(
    ("chosen", "rejected", "refused"),
    [(False, True, True), (False, None, True), (False, False, False), (True, False, False), (None, None, False)],
)
def test_a_pair_that_prefers_the_unsafe_answer_says_so(chosen, rejected, refused):
    record = Preference(ASK, "a", "b", "better", "safety", chosen, rejected)
    assert record.prefers_unsafe == refused


def test_dpo_takes_the_edited_answer_and_can_leave_cutting_to_its_trainer(tokenizer):
    (row,), _ = preference_rows([EDITED], tokenizer, 100)
    assert row["chosen_ids"] == encode_answer(tokenizer, "kilu nora")
    long = Preference(ASK, "kilu " * 50, "mete", "better", "helpfulness")
    rows, dropped = preference_rows([long], tokenizer, 40, too_long="cut")
    assert dropped == (0, 0)
    assert rows[0]["chosen_ids"] == encode_answer(tokenizer, "kilu " * 50)


def test_dpo_trains_on_no_pair_of_equal_answers(tokenizer):
    def pair(chosen, rejected, **fields):
        return Preference(ASK, chosen, rejected, "better", "helpfulness", **fields)

    equal = [pair(" kilu ", "kilu"), pair("nora", "mete", edited="mete"), pair("me", "me\n", rejected_finished=True)]
    equal += [pair("me", "me", chosen_finished=False, rejected_finished=False)]
    differ = [pair("kilu", "mete"), pair("kilu", "kilu", edited="nora"), pair("me", "me", rejected_finished=False)]
    long = pair("kilu " * 50, "mete")
    rows, left_out = preference_rows([*equal, *differ, long], tokenizer, 40, too_long="drop")
    assert (len(rows), left_out) == (3, PairsLeftOut(too_long=1, equal=4))
    assert all(row["chosen_ids"] != row["rejected_ids"] for row in rows)
    wanted = r"no pair left of 5: 4 of equal answers; 1 longer than 40 tokens, the longest \d+ .raise max_len"
    with pytest.raises(RecordError, match=wanted):
        preference_rows([*equal, long], tokenizer, 40, too_long="drop")


def test_a_dialog_that_the_dialect_cannot_write_is_named_by_its_record(tokenizer):
    said = [{"role": "user", "content": "bado"}, {"role": "robot", "content": "x"}]
    record = Preference(said, "kilu", "nora", "better", "helpfulness", source="a.jsonl")
    for rows in (ranking_rows, preference_rows):
        with pytest.raises(ContractError, match=r"record 1 from a.jsonl, .*bado.*: message 1, field 'role'"):
            rows([record], tokenizer, 100)
