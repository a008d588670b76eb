"""Samples survive a kill, and only finished answers with something in them win."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align.data import Prompt, RecordError, Sample, load_records
from llama_align.sampling import DialogSampler
from llama_align.sampling.identity import checkpoint_digest, records_digest
from llama_align.sampling.shards import Shards, best_samples

SETTINGS = {"answers": 2, "seed": 0}
RECIPE = Path(__file__).parents[2] / "recipes" / "rejection_sampling.py"


def sample(prompt: str, completion: str, score: float = 0.0, finished: bool = True, **rewards) -> Sample:
    return Sample(
        prompt=[{"role": "user", "content": prompt}],
        completion=completion,
        finished=finished,
        checkpoint="sft",
        temperature=1.0,
        seed=0,
        rewards={"helpfulness": score, **rewards},
        objective="helpfulness",
    )


class Sampler:
    """Two samples per prompt; keeps a journal of the ranges asked for and dies where it is told to."""

    def __init__(self, dies_at: int | None = None):
        self.dies_at, self.asked = dies_at, []

    def __call__(self, first: int, last: int) -> list[Sample]:
        if first == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((first, last))
        return [sample(f"p{i}", f"a{i}.{j}", i + j / 10) for i in range(first, last) for j in range(2)]


# -- shards


def test_all_prompts_in_order_and_the_last_shard_is_shorter(tmp_path):
    sampler = Sampler()
    samples = Shards(tmp_path, 7, 3, SETTINGS).run(sampler)
    assert sampler.asked == [(0, 3), (3, 6), (6, 7)]
    assert [s.completion for s in samples] == [f"a{i}.{j}" for i in range(7) for j in range(2)]
    assert samples == Sampler()(0, 7), "what comes back from disk is what was sampled"


def test_a_shard_on_disk_is_not_sampled_again(tmp_path):
    first = Shards(tmp_path, 7, 3, SETTINGS).run(Sampler())
    again = Sampler()
    assert Shards(tmp_path, 7, 3, SETTINGS).run(again) == first
    assert again.asked == []


@pytest.mark.parametrize("other", [{"seed": 1}, {"answers": 3}, {"prompts": "of another file"}])
def test_other_settings_are_not_mixed_in(tmp_path, other):
    Shards(tmp_path, 4, 2, SETTINGS).run(Sampler())
    sampler = Sampler()
    Shards(tmp_path, 4, 2, SETTINGS | other).run(sampler)
    assert sampler.asked == [(0, 2), (2, 4)]
    back = Sampler()
    Shards(tmp_path, 4, 2, dict(reversed(SETTINGS.items()))).run(back)
    assert back.asked == [], "the first ones are still there, in whatever order settings are named"


@pytest.mark.parametrize("dies_at", [0, 3, 6])
def test_a_kill_loses_and_repeats_nothing(tmp_path, dies_at):
    undisturbed = Shards(tmp_path / "undisturbed", 7, 3, SETTINGS).run(Sampler())
    killed = Sampler(dies_at)
    with pytest.raises(KeyboardInterrupt):
        Shards(tmp_path / "killed", 7, 3, SETTINGS).run(killed)
    shards = Shards(tmp_path / "killed", 7, 3, SETTINGS)
    # what a process leaves that is killed while it writes a shard
    (shards.folder / f".{dies_at:08d}-x.jsonl.17.part").write_text('{"prompt": [{"role": "us')
    resumed = Sampler()
    assert shards.run(resumed) == undisturbed
    assert killed.asked + resumed.asked == [(0, 3), (3, 6), (6, 7)]


def test_a_kill_inside_a_write_leaves_no_shard(tmp_path, monkeypatch):
    shards = Shards(tmp_path, 2, 2, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            shards.run(Sampler())
    assert list(shards.folder.glob("*.jsonl")) == []
    assert len(shards.run(Sampler())) == 4


# -- what shards and rows are identified by


def test_a_checkpoint_is_known_by_its_content(tmp_path):
    def write(name: str, **files: str) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for file, text in {"config.json": "{}", "model.safetensors": "w", "tokenizer.json": "t", **files}.items():
            (folder / file).write_text(text)
        return str(folder)

    first = checkpoint_digest(write("a"))
    assert checkpoint_digest(write("a")) == first, "written again with the same bytes"
    assert checkpoint_digest(write("b")) == first, "elsewhere"
    assert checkpoint_digest(write("b", **{"README.md": "card", "log.jsonl": "{}"})) == first
    for file in ("config.json", "model.safetensors", "tokenizer.json", "model-00002-of-00002.safetensors"):
        assert checkpoint_digest(write("c" + file, **{file: "other"})) != first
    assert checkpoint_digest("owner/model") == "owner/model"


def test_records_are_known_by_content_and_order():
    a, b = (Prompt([{"role": "user", "content": text}], "safety") for text in "ab")
    assert records_digest([a, b]) == records_digest([a, b])
    assert len({records_digest(r) for r in ([a, b], [b, a], [a], [])}) == 4


# -- the best of them


def test_the_highest_score_of_each_prompt_wins_in_order_of_prompts():
    pool = [sample("q", "low", 1), sample("p", "x", -3), sample("q", "high", 2), sample("p", "y", -2)]
    best, counts = best_samples(pool, "helpfulness")
    assert [(s.prompt[0]["content"], s.completion) for s in best] == [("q", "high"), ("p", "y")]
    assert counts == {"prompts": 2, "samples": 4, "cut": 0, "empty": 0, "kept": 2}


def test_cut_and_empty_answers_never_win():
    pool = [
        sample("p", "cut", 9, finished=False),
        sample("p", " \n", 8),
        sample("p", "", 8, finished=False),
        sample("p", "whole", -5),
        sample("q", "cut, too", 9, finished=False),
    ]
    best, counts = best_samples(pool, "helpfulness")
    assert [s.completion for s in best] == ["whole"]
    assert counts == {"prompts": 2, "samples": 5, "cut": 2, "empty": 2, "kept": 1}
    assert best_samples(pool[:3], "helpfulness")[0] == []
    assert best_samples([], "helpfulness")[1]["prompts"] == 0


def test_of_equal_scores_the_first_wins_and_copies_change_nothing():
    first, other = sample("p", "first", 1), sample("p", "other", 1)
    assert best_samples([first, other], "helpfulness")[0] == [first]
    assert best_samples([other, first], "helpfulness")[0] == [other]
    lower = sample("p", "lower", 0)
    assert best_samples([lower, lower, first, first, other], "helpfulness")[0] == [first]


def test_the_reward_that_decides_is_the_one_named():
    a, b = sample("p", "a", 1, combined=0.0), sample("p", "b", 0, combined=1.0)
    assert best_samples([a, b], "helpfulness")[0] == [a]
    assert best_samples([a, b], "combined")[0] == [b]


@pytest.mark.parametrize(
    ("scores", "keep", "kept"),
    [
        ([3, 1, 2, 0], 1.0, [0, 1, 2, 3]),
        ([3, 1, 2, 0], 0.5, [0, 2]),
        ([0, 1, 2, 3], 0.25, [3]),
        ([0, 1, 2, 3], 0.01, [3]),
        ([1, 1, 1, 1], 0.5, [0, 1]),  # a share stays a share where many score the same
        ([0, 1, 1, 1], 0.5, [1, 2]),
    ],
)
def test_keep_is_the_share_of_winners_that_stays(scores, keep, kept):
    pool = [sample(f"p{i}", f"a{i}", score) for i, score in enumerate(scores)]
    best, counts = best_samples(pool, "helpfulness", keep)
    assert best == [pool[i] for i in kept]
    assert counts["kept"] == len(kept)
    with_losers = [s for winner in pool for s in (winner, sample(winner.prompt[0]["content"], "worse", -9))]
    assert best_samples(with_losers, "helpfulness", keep)[0] == best


@pytest.mark.parametrize("keep", [0, -0.5, 1.5])
def test_a_share_out_of_range_is_refused(keep):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        best_samples([sample("p", "a")], "helpfulness", keep)


def test_samples_of_an_earlier_round_compete():
    now = [sample("p", "new", 1), sample("q", "new", 3)]
    earlier = [sample("p", "old", 2), sample("q", "old", 2), sample("r", "old", 0), sample("p", "tie", 1)]
    best, counts = best_samples(now + earlier, "helpfulness")
    assert [s.completion for s in best] == ["old", "new", "old"]
    assert counts["prompts"] == 3
    assert best_samples([*now, sample("p", "tie", 1)], "helpfulness")[0] == now, "of equals the new one"


def test_a_sample_that_nobody_scored_is_named():
    with pytest.raises(RecordError, match=r"sample 2 of checkpoint sft, field 'rewards': found helpfulness, expected"):
        best_samples([sample("p", "a", combined=1.0), sample("p", "b")], "combined")


def test_shards_are_records_a_user_can_read(tmp_path):
    shards = Shards(tmp_path, 2, 1, SETTINGS)
    shards.run(Sampler())
    rows = [json.loads(line) for path in sorted(shards.folder.glob("*.jsonl")) for line in path.open()]
    assert [Sample.from_dict(row).completion for row in rows] == ["a0.0", "a0.1", "a1.0", "a1.1"]


# -- the recipe


@pytest.fixture
def run(tmp_path, tiny_config, tokenizer):
    """Runs rejection sampling on seven prompts and returns how many it sampled at a time."""
    models = {}
    for name, auto in (("model", AutoModelForCausalLM), ("reward", AutoModelForSequenceClassification)):
        torch.manual_seed(0)
        models[name] = str(tmp_path / name)
        auto.from_config(tiny_config(num_labels=1)).save_pretrained(models[name])
        tokenizer.save_pretrained(models[name])
    prompts = [{"messages": [{"role": "user", "content": f"bado {i}?"}], "objective": "helpfulness"} for i in range(7)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))

    def call(output: str, dies_at: int | None = None, **changes) -> list[int]:
        asked = []

        class Mortal(DialogSampler):
            def __call__(self, prompts, *args, **kwargs):
                if len(asked) == dies_at:
                    raise KeyboardInterrupt
                asked.append(len(prompts))
                return super().__call__(prompts, *args, **kwargs)

        script = runpy.run_path(str(RECIPE))
        script["main"].__globals__["DialogSampler"] = Mortal
        options = {
            "output_dir": str(tmp_path / output),
            "model": models["model"],
            "reward_models": {"helpfulness": models["reward"]},
            "datasets": [str(tmp_path / "prompts.jsonl")],
            "answers": 20,
            "max_new_tokens": 20,
            "prompts_per_shard": 3,
        }
        script["main"](script["RejectionSamplingArguments"](**options | changes))
        return asked

    call.models = models
    return call


def test_a_killed_run_ends_in_the_files_of_an_undisturbed_one(run, tmp_path):
    assert run("undisturbed") == [3, 3, 1]
    with pytest.raises(KeyboardInterrupt):
        run("killed", dies_at=1)
    assert not (tmp_path / "killed" / "samples.jsonl").exists()
    assert run("killed") == [3, 1], "the first shard is there"
    for name in ("samples.jsonl", "best.jsonl", "metrics.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    samples = load_records([str(tmp_path / "killed" / "samples.jsonl")], "sample")[0]
    assert len(samples) == 140
    assert len({s.completion for s in samples}) > 100, "every prompt has random numbers of its own"
    assert run("whole", prompts_per_shard=7) == [7]
    whole = load_records([str(tmp_path / "whole" / "samples.jsonl")], "sample")[0]
    assert [s.completion for s in whole] == [s.completion for s in samples], "whatever the size of a shard"
    best = load_records([str(tmp_path / "killed" / "best.jsonl")], "demonstration")[0]
    finished = {s.prompt[0]["content"] for s in samples if s.finished and s.completion.strip()}
    assert [d.messages[0]["content"] for d in best] == sorted(finished)


def test_shards_serve_another_choice_but_no_other_checkpoint(run, tmp_path, tiny_config):
    run("out")
    assert run("out", keep=0.5) == [], "another choice among the same samples"
    assert run("out", earlier=[str(tmp_path / "out" / "samples.jsonl")]) == []
    assert run("out", temperature=0.7) == [3, 3, 1]
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(run.models["model"])
    assert run("out") == [3, 3, 1], "the checkpoint was trained again in its directory"
    (tmp_path / "prompts.jsonl").write_text((tmp_path / "prompts.jsonl").read_text().replace("bado", "kilu"))
    assert run("out") == [3, 3, 1], "other prompts in the same file"
