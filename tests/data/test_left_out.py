"""Where nothing is left, every filter is named with its count and its option; too long says by how much."""

import json

import pytest

from llama_align.data import (
    Demonstration,
    Preference,
    Prompt,
    RecordError,
    demonstration_rows,
    fitting_prompts,
    preference_rows,
    ranking_rows,
)
from llama_align.data.left_out import TooLong, none_left

ASK = [{"role": "user", "content": "bado kilu?"}]
PAIR = Preference(ASK, "kilu", "mete", "better", "helpfulness")
LONG = Preference(ASK, "kilu " * 50, "mete", "better", "helpfulness", source="mine")
LONGER = Preference(ASK, "kilu " * 90, "mete", "better", "helpfulness")
EARLIER = {"of other grades (grades)": 7, "with an unsafe chosen answer": 0}


def test_a_count_knows_the_longest_and_stays_a_number():
    count = TooLong.of([3, 9, 5, 7], 5)
    assert (count, count.longest, json.dumps({"n": count}), f"{count}") == (2, 9, '{"n": 2}', "2")
    assert count.reason("raise max_length") == "longer than 5 tokens, the longest 9 (raise max_length)"
    assert TooLong.of([3], 5).reason("x") == "longer than 5 tokens"
    assert str(none_left("pair", {"a": 0})) == "pairs: found no pair left of 0: none given, expected some"


@pytest.mark.parametrize("rows_of", [preference_rows, ranking_rows])
def test_no_pair_left_names_what_was_left_out_before(rows_of, tokenizer):
    with pytest.raises(RecordError) as caught:
        rows_of([], tokenizer, 40, earlier=EARLIER)
    assert str(caught.value) == "pairs: found no pair left of 7: 7 of other grades (grades), expected some"
    with pytest.raises(
        RecordError, match=r"no pair left of 9: 7 of other grades \(grades\); 2 longer than 40 tokens, the"
    ):
        rows_of([LONG, LONGER], tokenizer, 40, too_long="drop", earlier=EARLIER)


def test_too_long_says_how_long(tokenizer):
    lengths = [len(preference_rows([r], tokenizer, 1000)[0][0]["prompt_ids"]) + 1 for r in (LONG, LONGER)]
    for rows_of, dropped in ((preference_rows, lambda left: left.too_long), (ranking_rows, lambda left: left.rows)):
        with pytest.raises(
            RecordError, match=r"record 2 from mine.*: found \d+ and 1 more of up to \d+ tokens, expected"
        ):
            rows_of([PAIR, LONG, LONGER], tokenizer, 40)
        _, left_out = rows_of([PAIR, LONG, LONGER], tokenizer, 40, too_long="drop")
        assert (dropped(left_out), dropped(left_out).limit) == (2, 40)
        assert dropped(left_out).longest > lengths[1] + 80
    dialogs = [Demonstration([*ASK, {"role": "assistant", "content": "kilu " * n}]) for n in (1, 50, 90)]
    assert demonstration_rows(dialogs, tokenizer, 40, too_long="drop")[1].longest > 90
    with pytest.raises(
        RecordError, match=r"no demonstration left of 2: 2 longer than 40 tokens, the longest \d+ .raise max"
    ):
        demonstration_rows(dialogs[1:], tokenizer, 40, too_long="drop")
    prompts = [Prompt([{"role": "user", "content": "kilu " * n}], "safety") for n in (1, 50)]
    assert fitting_prompts(prompts, tokenizer, 40, "drop")[1].reason("max_new_tokens").endswith("(max_new_tokens)")
    with pytest.raises(
        RecordError, match=r"no prompt left of 1: 1 longer than 40 tokens, the longest \d+ .the context"
    ):
        fitting_prompts(prompts[1:], tokenizer, 40, "drop")
