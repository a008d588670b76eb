"""A prompt is on one side only, whatever record it stands in and whatever is added."""

import pytest

from llama_align.data import Demonstration, Document, Prompt, load_records, split_by_prompt, write_jsonl

FRACTIONS = {"train": 0.8, "dev": 0.1, "test": 0.1}


def prompt(i: int) -> Prompt:
    return Prompt(messages=[{"role": "user", "content": f"question {i}"}], objective="helpfulness")


def answered(i: int, answer: str = "yes") -> Demonstration:
    return Demonstration(messages=[*prompt(i).messages, {"role": "assistant", "content": answer}])


def where(splits):
    return {record.messages[0]["content"]: name for name, records in splits.items() for record in records}


def test_shares_hold_and_nothing_is_lost():
    splits = split_by_prompt(map(prompt, range(3000)), FRACTIONS)
    assert sum(map(len, splits.values())) == 3000
    for name, fraction in FRACTIONS.items():
        assert len(splits[name]) / 3000 == pytest.approx(fraction, abs=0.03)


def test_equal_prompts_stay_together_across_records_and_additions():
    few = where(split_by_prompt(map(prompt, range(50)), FRACTIONS))
    many = split_by_prompt([answered(i, a) for i in range(500) for a in ("yes", "no")], FRACTIONS)
    assert few.items() <= where(many).items()
    texts = [{r.messages[0]["content"] for r in records} for records in many.values()]
    assert not texts[0] & texts[1] | texts[0] & texts[2] | texts[1] & texts[2]
    assert where(split_by_prompt(map(prompt, range(50)), FRACTIONS, seed=1)) != few


def test_a_continued_dialog_stays_with_its_opening():
    system = {"role": "system", "content": "Be brief."}
    for i in range(50):
        longer = Demonstration(messages=[system, *answered(i).messages, *answered(i + 1).messages])
        splits = split_by_prompt([prompt(i), longer], {"a": 0.5, "b": 0.5})
        assert sorted(map(len, splits.values())) == [0, 2]


def test_documents_and_fractions():
    splits = split_by_prompt([Document(text="a")] * 3, {"all": 1.0, "none": 0.0})
    assert [len(records) for records in splits.values()] == [3, 0]
    for wrong in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(ValueError, match="expected shares that add up to 1"):
            split_by_prompt([], wrong)


def test_parts_of_a_source_are_disjoint_and_complete(tmp_path):
    rows = [{"prompt": f"Question {i // 2}?", "chosen": "yes", "rejected": "no"} for i in range(400)]
    path = tmp_path / "pairs.jsonl"
    write_jsonl(path, rows)

    def part(low, high):
        source = {"path": str(path), "objective": "helpfulness", "default_grade": "better", "part": [low, high]}
        return load_records([source], "preference")[0]

    first, second = part(0, 0.7), part(0.7, 1)
    assert len(first) + len(second) == 400
    assert {r.prompt[0]["content"] for r in first}.isdisjoint(r.prompt[0]["content"] for r in second)
    assert 0.6 < len(first) / 400 < 0.8


def test_a_part_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"key 'part': .* expected two numbers, from and to"):
        load_records([{"path": "a.jsonl", "part": [0.5, 0.5]}], "preference")
