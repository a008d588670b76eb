"""Tokens by which mixtures are shared out are those of the rows that are trained on."""

import pytest

from llama_align.data import (
    Demonstration,
    Preference,
    demonstration_rows,
    dialog_tokens,
    load_records,
    pair_tokens,
    preference_rows,
)


def said(words: int) -> dict:
    return {"role": "assistant", "content": "bado " * words}


@pytest.mark.parametrize("too_long", ["error", "drop"])
def test_a_dialog_has_the_tokens_of_its_row(tokenizer, too_long):
    asked = {"role": "user", "content": "kilu nora?"}
    records = [Demonstration([asked, said(n)], finished=n != 3) for n in (1, 3, 9, 200)]
    records = records if too_long == "drop" else records[:3]
    size = dialog_tokens(tokenizer, 64, too_long)
    rows, dropped = demonstration_rows(records, tokenizer, 64, "concat", too_long)
    row = rows[0]
    filled = next(i for i in range(len(row["labels"]), 0, -1) if row["labels"][i - 1] != -100)
    assert sum(map(size, records)) == filled + 64 * (len(rows) - 1)
    assert [size(record) for record in records].count(0) == dropped == (too_long == "drop")


def pair(better: int, worse: int, **more) -> Preference:
    asked = [{"role": "user", "content": "kilu nora?"}]
    answers = {"chosen": "bado " * better, "rejected": "bado " * worse}
    return Preference(asked, **answers, grade="better", objective="helpfulness", **more)


def test_a_pair_has_the_tokens_of_its_prompt_and_both_answers(tokenizer):
    records = [pair(2, 5), pair(4, 4), pair(1, 90), pair(3, 1, chosen_finished=False)]
    for too_long in ("drop", "cut"):
        rows, _ = preference_rows(records, tokenizer, 48, too_long=too_long)
        size = pair_tokens(tokenizer, 48, too_long, lambda record: True)
        cut = [
            [min(len(row[side]), 48 - len(row["prompt_ids"])) for side in ("chosen_ids", "rejected_ids")]
            for row in rows
        ]
        assert sum(map(size, records)) == sum(
            len(row["prompt_ids"]) + sum(answers) for row, answers in zip(rows, cut, strict=True)
        )
        assert [size(record) for record in records].count(0) == len(records) - len(rows)
    assert pair_tokens(tokenizer, 48, "drop", lambda record: False)(records[0]) == 0


def test_equal_weights_are_equal_shares_of_what_sft_reads(tokenizer, lines):
    def source(name: str, count: int, words: int) -> dict:
        messages = [{"role": "user", "content": "kilu?"}, said(words)]
        return {"path": lines(*[{"messages": messages}] * count, name=f"{name}.jsonl"), "weight": 1}

    size = dialog_tokens(tokenizer, 256, "error")
    sources = [source("long", 40, 30), source("short", 40, 2)]
    records, report = load_records(sources, "demonstration", 0, size, "tokens")
    long = [record for record in records if len(record.messages[1]["content"]) > 20]
    assert len(long) < 20
    assert report.sources["short"]["epochs"] == 1
    assert report.sources["long"]["tokens"] == sum(map(size, long))
    assert abs(report.sources["long"]["tokens"] - report.sources["short"]["tokens"]) <= size(long[0]) / 2
