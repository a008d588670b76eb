"""No model scores an answer twice, and what is scored together depends on the samples alone."""

import json
import os
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from llama_align import recipe
from llama_align.data import RecordError, Sample
from llama_align.rewards.score_cache import CachedRewards
from llama_align.runtime import files as parts


def sample(prompt: str, completion: str, finished: bool = True, objective: str = "helpfulness") -> Sample:
    return Sample([{"role": "user", "content": prompt}], completion, finished, "sft", 1.0, 0, {}, objective)


SAMPLES = [sample(f"bado {i % 3}", f"me {i}", finished=i % 2 == 0) for i in range(10)]


@pytest.fixture
def checkpoints(tmp_path, tiny_config, tokenizer):
    paths = {}
    for seed, name in enumerate(("helpfulness", "safety")):
        torch.manual_seed(seed)
        paths[name] = str(tmp_path / name)
        AutoModelForSequenceClassification.from_config(tiny_config(num_labels=1)).save_pretrained(paths[name])
        tokenizer.save_pretrained(paths[name])
    return paths


@pytest.fixture
def make(tmp_path, checkpoints):
    """Rewards over a cache, and the numbers of answers each call of a model scored."""

    def make(names=("helpfulness",), size: int = 4, folder: str = "scores", score=None, **changes):
        asked = []

        def load(path):
            model = recipe.load_reward_model(path)
            own = score or model.scorer.score
            model.scorer.score = lambda ids: (asked.append(len(ids)), own(ids))[1]
            return model

        paths = {name: checkpoints[name] for name in names}
        return CachedRewards(paths, load, 0.15, tmp_path / folder, size, **changes), asked

    return make


def test_scores_are_those_of_the_model_in_the_order_of_the_samples(make, checkpoints):
    rewards, asked = make()
    scores = rewards(SAMPLES)["helpfulness"]
    model = recipe.load_reward_model(checkpoints["helpfulness"])
    expected = model.score([s.prompt for s in SAMPLES], [s.completion for s in SAMPLES], [s.finished for s in SAMPLES])
    assert scores == pytest.approx(expected, abs=1e-5)
    assert asked == [4, 4, 2], "in blocks"


def test_nothing_is_scored_twice(make):
    first, asked = make()
    scores = first(SAMPLES)["helpfulness"]
    assert first(SAMPLES)["helpfulness"] == scores
    assert sum(asked) == 10
    again, asked = make(size=3)
    assert again([*SAMPLES[::-1], sample("bado 0", "new"), *SAMPLES])["helpfulness"][:10] == scores[::-1]
    assert sum(asked) == 1, "in another order, in other blocks, beside a new answer, by another process"
    padded = [replace(s, completion=f" {s.completion}\n") for s in SAMPLES]
    assert again(padded)["helpfulness"] == scores, "text is stripped before it is encoded"
    assert sum(asked) == 1


def test_models_are_loaded_only_where_something_is_missing(make, checkpoints):
    make(("helpfulness",))[0](SAMPLES)
    loaded = []
    rewards, _ = make(("helpfulness", "safety"))
    load, rewards.load = rewards.load, lambda path: (loaded.append(path), load(path))[1]
    scores = rewards(SAMPLES)
    assert loaded == [checkpoints["safety"]]
    assert rewards(SAMPLES) == scores
    assert len(loaded) == 1
    rewards([*SAMPLES, sample("bado 0", "new")])
    assert loaded[1:] == [checkpoints["helpfulness"], checkpoints["safety"]], "given up in between"


def test_another_type_of_weights_has_scores_of_its_own(make, tmp_path):
    make()[0](SAMPLES)
    half, asked = make(dtype="bfloat16")
    half(SAMPLES)
    assert sum(asked) == 10
    assert sorted(path.name.split("-")[1] for path in (tmp_path / "scores").iterdir()) == ["bfloat16", "float32"]


def test_answers_that_do_not_fit_are_counted(make, tmp_path):
    long = sample("bado 0", "me " * 400)
    rewards, _ = make()
    rewards([*SAMPLES, long, long])
    assert rewards.truncated == {"helpfulness": 2}
    again, _ = make()
    again([*SAMPLES, long])
    assert again.truncated == {"helpfulness": 1}
    again(SAMPLES)
    assert again.truncated == {"helpfulness": 0}


def test_what_a_killed_write_left_is_removed(make, tmp_path):
    make()[0](SAMPLES)
    (folder,) = (tmp_path / "scores").iterdir()
    cut, other = (folder / f".x.jsonl.{pid}.part" for pid in (17, 18))
    for part in (cut, other):
        part.write_text('{"answer": "x')
    os.utime(cut, (parts.STARTED - 9, parts.STARTED - 9))
    make()[0](SAMPLES)
    assert (cut.exists(), other.exists()) == (False, True), "the second may be of another run at work"


def test_a_cut_answer_is_not_a_finished_one(make):
    rewards, asked = make()
    a, b = rewards([sample("p", "me"), sample("p", "me", finished=False)])["helpfulness"]
    assert a != b
    assert sum(asked) == 2


def test_a_call_is_not_the_text_it_reads_as(make):
    rewards, asked = make()
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "code_interpreter", "arguments": {"code": "me"}}],
    }
    answers = ["me", {"role": "assistant", "content": "me", "end": "eom"}, call, call | {"content": "\n"}, "me "]
    scores = rewards([sample("p", answer) for answer in answers])["helpfulness"]
    assert len(set(scores[:3])) == 3
    assert scores[2:] == [scores[2], scores[2], scores[0]]
    assert sum(asked) == 3


def test_several_models_in_one_pass_and_their_combination(make):
    rewards, asked = make(("helpfulness", "safety"))
    samples = [*SAMPLES, sample("x", "me", objective="safety")]
    scores = rewards(samples)
    assert list(scores) == ["helpfulness", "safety", "combined"]
    assert scores["combined"][-1] == scores["safety"][-1]
    assert sum(asked) == 22
    alone, asked = make(("safety",))
    assert alone(samples)["safety"] == scores["safety"]
    assert asked == [], "each model has its own scores"


def test_a_model_that_was_trained_again_scores_again(make, checkpoints, tiny_config):
    rewards, _ = make()
    before = rewards(SAMPLES)["helpfulness"]
    torch.manual_seed(7)
    config = tiny_config(num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(checkpoints["helpfulness"])
    rewards, asked = make()
    assert rewards(SAMPLES)["helpfulness"] != before
    assert sum(asked) == 10


def test_a_kill_between_blocks_changes_no_bit(make, tmp_path, checkpoints):
    make(folder="undisturbed")[0](SAMPLES + SAMPLES[:2])
    score, calls = recipe.load_reward_model(checkpoints["helpfulness"]).scorer.score, []

    def dies(ids):
        calls.append(len(ids))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(ids)

    with pytest.raises(KeyboardInterrupt):
        make(folder="killed", score=dies)[0](SAMPLES)
    resumed, asked = make(folder="killed")
    resumed(SAMPLES)
    assert asked == [4, 2], "the first block is there"
    files = {
        name: {p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.jsonl")} for name in ("undisturbed", "killed")
    }
    assert files["killed"] == files["undisturbed"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"answer": "x"}', "score"),
        ('{"answer": 3, "score": 1.0}', "answer"),
        ('{"answer": "x", "score": "1"}', "score"),
    ],
)
def test_a_damaged_file_is_named(make, tmp_path, line, field):
    rewards, _ = make()
    rewards(SAMPLES[:2])
    (path,) = (tmp_path / "scores").rglob("*.jsonl")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RecordError, match=rf"{path}, line 3, field '{field}': found .*, expected a .*can be removed"):
        rewards(SAMPLES)


def test_a_score_that_is_no_number_is_refused(make, tmp_path):
    rewards, _ = make(score=lambda ids: [float("nan")] * len(ids))
    with pytest.raises(ValueError, match="found a score of nan, expected finite numbers"):
        rewards(SAMPLES)
    assert list((tmp_path / "scores").rglob("*.jsonl")) == []


def test_a_cache_is_json_lines(make, tmp_path):
    rewards, _ = make()
    scores = rewards(SAMPLES[:2])["helpfulness"]
    (path,) = (tmp_path / "scores").rglob("*.jsonl")
    rows = [json.loads(line) for line in path.open()]
    assert [row["score"] for row in rows] == scores
    assert {len(row["answer"]) for row in rows} == {32}
