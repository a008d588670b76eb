"""An answer that was cut has no end of turn wherever it goes: through files to rows, losses and scores."""

import pytest

from llama_align.annotate import judge_annotator, reward_annotator
from llama_align.chat import ContractError, ControlTokens, TokenRole, encode_answer, render, render_prompt
from llama_align.data import (
    Demonstration,
    Preference,
    Prompt,
    Sample,
    demonstration_rows,
    load_records,
    preference_rows,
    ranking_rows,
    write_jsonl,
)
from llama_align.recipe import load_model
from llama_align.rejection.candidates import graded_pairs
from llama_align.rewards import RewardModel, RewardModels
from llama_align.sampling import Draft
from llama_align.sandbox import World, instructions
from llama_align.sandbox.write import prompt_record
from llama_align.trainers import HerdDPOConfig, HerdDPOTrainer, score_pairs

ASK = [{"role": "user", "content": "bado?"}]
ENDINGS = [(True, True), (True, False), (False, True), (False, False), (None, None)]


def pair(chosen_ended: bool | None, rejected_ended: bool | None, **fields) -> Preference:
    made = {"prompt": ASK, "chosen": "kilu nora", "rejected": "mete", "grade": "better", "objective": "helpfulness"}
    return Preference(**made | fields, chosen_finished=chosen_ended, rejected_finished=rejected_ended)


@pytest.fixture(scope="module")
def reward(checkpoint, tokenizer) -> RewardModel:
    return RewardModel(load_model(checkpoint("reward"), "reward").eval(), tokenizer)


@pytest.mark.parametrize(("chosen", "rejected"), ENDINGS)
def test_training_rows_and_scoring_agree_on_every_ending(reward, tokenizer, chosen, rejected):
    record = pair(chosen, rejected)
    endings = [chosen is not False, rejected is not False]
    texts = [record.chosen, record.rejected]
    (row,), _ = preference_rows([record], tokenizer, 100)
    wanted = [encode_answer(tokenizer, text, finished=ended) for text, ended in zip(texts, endings, strict=True)]
    assert [row["chosen_ids"], row["rejected_ids"]] == wanted
    assert [ids[-1] == tokenizer.eos_token_id for ids in wanted] == endings
    rows, _ = ranking_rows([record], tokenizer, 100)
    scored = [reward.ids(ASK, text, ended) for text, ended in zip(texts, endings, strict=True)]
    (ranked,) = rows
    assert [ranked["answers_ids"][ranked[side][0]] for side in ("better", "worse")] == scored
    found, asked = score_pairs(reward.scorer, rows), reward.score([ASK] * 2, texts, endings)
    assert [*found.chosen, *found.rejected] == pytest.approx(asked, abs=1e-6)


def test_the_end_shows_in_a_score_and_only_in_that_of_finished_answers(reward, tokenizer):
    scores = [
        score_pairs(reward.scorer, ranking_rows([pair(end, True)], tokenizer, 100)[0]).chosen for end in (False, None)
    ]
    assert abs(scores[0][0] - scores[1][0]) > 1e-3


def test_an_edited_answer_has_an_end_though_the_one_it_improves_was_cut(tokenizer):
    (row,), _ = preference_rows([pair(False, False, edited="nora")], tokenizer, 100)
    assert row["chosen_ids"] == encode_answer(tokenizer, "nora")
    assert row["rejected_ids"] == encode_answer(tokenizer, "mete", finished=False)
    (ranked,), _ = ranking_rows([pair(False, False, edited="nora")], tokenizer, 100)
    prompt = render_prompt(tokenizer, ASK)
    wanted = [("nora", True), ("kilu nora", False), ("mete", False)]
    answers = [prompt + encode_answer(tokenizer, text, finished=ended) for text, ended in wanted]
    assert sorted(ranked["answers_ids"]) == sorted(answers)


def test_the_same_text_cut_and_finished_are_two_answers(tokenizer):
    (ranked,), left_out = ranking_rows([pair(True, False, rejected="kilu nora")], tokenizer, 100)
    assert (len(ranked["answers_ids"]), left_out.equal) == (2, 0)
    cut, finished = sorted(ranked["answers_ids"], key=len)
    assert finished == [*cut, tokenizer.eos_token_id]


@pytest.mark.parametrize("masked", [True, False])
def test_neither_nll_nor_ratio_reads_an_end_that_was_not_there(causal_path, tokenizer, settings, masked):
    rows, _ = preference_rows([pair(*ending) for ending in ENDINGS], tokenizer, 100)
    config = HerdDPOConfig(**settings, max_length=100, mask_format_tokens=masked)
    trainer = HerdDPOTrainer(load_model(causal_path), args=config, train_dataset=rows, processing_class=tokenizer)
    batch = trainer.data_collator(list(rows))
    read = {}
    for name in ("nll_mask", "completion_mask"):
        read[name] = (batch["input_ids"] * batch[name] == tokenizer.eos_token_id).sum(1).tolist()
    ended = [ending[side] is not False for side in (0, 1) for ending in ENDINGS]
    assert read["nll_mask"] == ended
    assert read["completion_mask"] == ([0] * len(ended) if masked else ended)
    assert trainer.alarms == {"no_content": 0, "lost_terminator": 0, "chosen_falling": 0}
    loss = trainer.compute_loss(trainer.model.train(), batch)
    assert loss.isfinite()


def test_demonstrations_of_cut_answers_learn_no_end(tokenizer, tmp_path):
    dialog = [*ASK, {"role": "assistant", "content": "kilu"}]
    rows = {end: demonstration_rows([Demonstration(dialog, None, end)], tokenizer, 40)[0][0] for end in (None, False)}
    end = tokenizer.eos_token_id
    assert sum(label == end for label in rows[None]["labels"]) == 1
    assert end not in rows[False]["labels"]
    learned = [[i for i in row["labels"] if i != -100] for row in rows.values()]
    assert learned[0] == [*learned[1], end]
    # made of samples and preferences, too
    sample = Sample(ASK, "kilu", False, "sft", 1.0, 0, {}, "helpfulness")
    write_jsonl(tmp_path / "samples.jsonl", [sample])
    write_jsonl(tmp_path / "pairs.jsonl", [pair(False, True), pair(False, True, edited="nora")])
    files = {"samples": "sample", "pairs": "preference"}
    sources = [{"path": str(tmp_path / f"{name}.jsonl"), "kind": kind} for name, kind in files.items()]
    found, _ = load_records(sources, "demonstration")
    assert [(d.messages[-1]["content"], d.finished) for d in found] == [
        ("kilu", False),
        ("kilu nora", False),
        ("nora", None),
    ]


@pytest.mark.parametrize("form", ["auto", "records", "trl"])
def test_annotators_say_what_was_cut_and_files_keep_it(form, reward, tmp_path):
    (task,) = instructions(World.generate(0), 0, 1, "rl")
    prompt = Prompt(**prompt_record(task))
    for ending in ENDINGS[:4]:
        drafts = tuple(Draft(text, end, 3) for text, end in zip(("kilu", "mete nora"), ending, strict=True))
        wanted = {draft.text: draft.finished for draft in drafts}
        for annotate in (judge_annotator(0.1, 0), reward_annotator(RewardModels({"helpfulness": reward}))):
            (made,) = annotate([(prompt, drafts)], 1).preferences
            assert {made.chosen: made.chosen_finished, made.rejected: made.rejected_finished} == wanted
            write_jsonl(tmp_path / "pairs.jsonl", [made])
            assert load_records([{"path": str(tmp_path / "pairs.jsonl"), "format": form}], "preference")[0] == [made]


def test_pairs_of_rejection_sampling_are_of_finished_answers_and_say_so():
    answers = [
        Sample(ASK, text, True, "sft", 1.0, 0, {"r": score}, "helpfulness") for text, score in (("a", 2), ("b", 0))
    ]
    (made,) = graded_pairs({"p": answers}, "r", {"better": 1.0}, 1)
    assert (made.chosen_finished, made.rejected_finished) == (True, True)


def test_a_message_left_open_has_no_end_and_keeps_its_roles(tokenizer):
    tokens = ControlTokens.of(tokenizer)
    dialog = [*ASK, {"role": "assistant", "content": "kilu"}]
    whole, open_ = render(tokenizer, dialog), render(tokenizer, dialog, continue_final_message=True)
    assert [*open_.ids, tokens.eot] == whole.ids
    assert [*open_.roles, int(TokenRole.ANSWER_END)] == whole.roles
    for messages, prompt in (([], False), (dialog, True)):
        with pytest.raises(ContractError, match="continue_final_message: found "):
            render(tokenizer, messages, continue_final_message=True, add_generation_prompt=prompt)
