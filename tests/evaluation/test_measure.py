"""Checkpoints measured on the sandbox's held-out prompts: the files of docs/design.md, the numbers, what is reused."""

import json
import random
import runpy
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align import recipe
from llama_align.data import Document, Prompt, RecordError, load_records
from llama_align.evaluation import measure as evaluation
from llama_align.evaluation.measure import Evaluation, check_rows
from llama_align.metrics.functional import paired_difference, win_rate
from llama_align.recipe import checkpoints
from llama_align.recipe.engines import EngineSettings
from llama_align.rewards import RewardModels
from llama_align.sampling import Draft, SamplingParams
from llama_align.sandbox import SandboxConfig, answers, judge, write_sandbox

RECIPE = Path(__file__).parents[2] / "recipes" / "evaluate.py"
SIZES = {"documents": 20, "documents_heldout": 5, "demonstrations": 2, "preferences": 2, "preferences_heldout": 2}
HELDOUT = {"prompts": 2, "heldout_helpful": 12, "heldout_lookalike": 4, "heldout_secret": 5}
CONTEXT = 40


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sandbox")
    write_sandbox(folder, SandboxConfig(**SIZES, **HELDOUT))
    return folder


@pytest.fixture(scope="module")
def prompts(sandbox):
    return load_records([str(sandbox / "heldout.jsonl")], "prompt")[0]


@pytest.fixture(scope="module")
def texts(sandbox):
    return load_records([str(sandbox / "corpus_heldout.jsonl")], "document")[0]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_config, tokenizer):
    def make(seed: int, folder: Path | None = None, auto=AutoModelForCausalLM, **changes) -> str:
        folder = folder or tmp_path_factory.mktemp("checkpoint")
        torch.manual_seed(seed)
        auto.from_config(tiny_config(**changes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def judges(checkpoint):
    make = {"auto": AutoModelForSequenceClassification, "num_labels": 1}
    return {name: checkpoint(seed, **make) for seed, name in enumerate(("helpfulness", "safety"), start=5)}


@pytest.fixture
def make(tmp_path, prompts, texts):
    """An evaluation into `tmp_path` without reward models."""

    def evaluation_of(**changes) -> Evaluation:
        defaults = {
            "output_dir": str(tmp_path),
            "prompts": prompts,
            "texts": texts,
            "judge": "sandbox",
            "rewards": None,
            "params": SamplingParams(1, 12, 0.0),
            "context": CONTEXT,
            "settings": {"seed": 0},
        }
        return Evaluation(**defaults | changes)

    return evaluation_of


@pytest.fixture
def said(monkeypatch):
    """Replaces sampling: the next row's drafts are those handed over."""
    queue = []

    class Canned:
        def __init__(self, *_):
            pass

        def __call__(self, dialogs, params, progress=False):
            return [[draft] for draft in queue.pop(0)]

    monkeypatch.setattr(evaluation, "DialogSampler", Canned)
    return queue


def read(path: Path):
    return json.loads(path.read_text())


def samples_of(folder: Path, row: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"samples_{row}.jsonl").read_text().splitlines()]


def drafts(prompts: list[Prompt], seed: int) -> list[Draft]:
    """Good, wrong, refusing, cut and empty answers."""
    rng = random.Random(seed)
    made = []
    for prompt in prompts:
        good, wrong = answers.answer(prompt.task, rng), answers.answer(prompt.task, rng, wrong=True)
        text, finished = rng.choice([(good, True)] * 3 + [(good, False), (wrong, True), (answers.refuse(rng), True)])
        made.append(Draft(text, finished, rng.randint(1, 12)))
    return made


# -- one row


def test_a_row_of_a_random_model(make, tmp_path, checkpoint, tokenizer, prompts, judges):
    path = checkpoint(0)
    rewards = RewardModels.load(judges, recipe.load_reward_model)
    made = make(rewards=rewards)
    result = made.measure("sft", path, tokenizer)
    row = read(tmp_path / "sft.json")
    assert row == json.loads(json.dumps(result))
    assert set(row) == {
        *("row", "model", "settings", "n", "score", "safety", "perplexity", "rewards", "length", "endings")
    }, "docs/design.md, and what the row depends on"
    assert (row["row"], row["model"], row["n"]) == ("sft", Path(path).name, 21)
    assert {"mean", "low", "high", "by_family", "items"} <= set(row["score"])
    assert {"violation_rate", "n_unsafe", "false_refusal_rate", "n_safe"} <= set(row["safety"])
    assert {"value", "tokens"} <= set(row["perplexity"])
    assert set(row["length"]) == {"mean_tokens", "finished"}
    assert set(row["rewards"]) == {"helpfulness", "safety", "combined"}
    assert all(len(scores) == 21 for scores in row["rewards"].values())
    samples = samples_of(tmp_path, "sft")
    assert [s["prompt"] for s in samples] == [p.messages for p in prompts]
    said = [s["completion"] for s in samples]
    for name, model in rewards.models.items():
        expected = model.score([p.messages for p in prompts], said, [s["finished"] for s in samples])
        assert row["rewards"][name] == pytest.approx(expected, abs=1e-5)


def test_numbers_agree_with_counts_by_hand(make, tmp_path, checkpoint, tokenizer, prompts, said):
    given = drafts(prompts, 1)
    said.append(given)
    path = checkpoint(0)
    make(texts=[]).measure("sft", path, tokenizer)
    row, samples = read(tmp_path / "sft.json"), samples_of(tmp_path, "sft")
    assert [(s["completion"], s["finished"], s["task"]) for s in samples] == [
        (d.text, d.finished, p.task) for d, p in zip(given, prompts, strict=True)
    ]
    helpful, by_family, total = [], Counter(), Counter()
    violations = refusals = 0
    for sample in samples:
        task, family = sample["task"], sample["task"]["family"]
        verdict = judge(task, sample["completion"], sample["finished"])
        assert sample["helpful"] is verdict.helpful
        assert sample["violation"] is verdict.violation
        assert sample["false_refusal"] is verdict.false_refusal
        violations += sample["violation"]
        refusals += sample["false_refusal"]
        if family != "secret":
            helpful.append(int(sample["helpful"]))
            by_family[family] += sample["helpful"]
            total[family] += 1
    assert 0 < sum(helpful) < len(helpful) == 16
    assert violations > 0
    assert refusals > 0
    score, safety = row["score"], row["safety"]
    assert score["items"] == helpful
    assert score["mean"] == pytest.approx(sum(helpful) / 16)
    assert score["low"] < score["mean"] < score["high"]
    assert {f: (round(v["mean"] * v["n"], 6), v["n"]) for f, v in score["by_family"].items()} == {
        family: (by_family[family], n) for family, n in total.items()
    }
    assert sum(v["n"] for v in score["by_family"].values()) == 16
    assert (safety["n_unsafe"], safety["n_safe"]) == (5, 16)
    assert safety["violation_rate"] == pytest.approx(violations / 5)
    assert safety["false_refusal_rate"] == pytest.approx(refusals / 16)
    assert row["length"]["mean_tokens"] == pytest.approx(sum(d.tokens for d in given) / 21, abs=1e-3)
    assert row["length"]["finished"] == pytest.approx(sum(s["finished"] for s in samples) / 21, abs=1e-4)
    assert row["endings"]["missing_end"] == pytest.approx(1 - row["length"]["finished"], abs=1e-4)


def test_perplexity_equals_a_direct_computation(make, tmp_path, checkpoint, tokenizer, texts):
    path = checkpoint(0)
    model = recipe.load_model(path)
    row = make(prompts=[], judge="none").measure("sft", path, tokenizer)
    assert set(row) == {"row", "model", "settings", "perplexity"}
    assert not list(tmp_path.glob("samples_*")), "no prompts, no samples"
    nll, tokens, lengths = 0.0, 0, []
    for text in texts:
        ids = tokenizer(f"<|begin_of_text|>{text.text}<|end_of_text|>", add_special_tokens=False)["input_ids"]
        lengths.append(len(ids))
        ids = torch.tensor([ids[:CONTEXT]])
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, :-1].double()
        nll += F.cross_entropy(scores, ids[0, 1:], reduction="sum").item()
        tokens += ids.shape[1] - 1
    assert max(lengths) > CONTEXT, "the context cuts something"
    assert row["perplexity"]["tokens"] == tokens
    assert row["perplexity"]["value"] == pytest.approx(torch.tensor(nll / tokens).exp().item(), rel=1e-4)


def test_only_unsafe_prompts_give_no_score(make, checkpoint, tokenizer, prompts, said):
    secrets = [prompt for prompt in prompts if prompt.task["family"] == "secret"]
    said.append(drafts(secrets, 0))
    path = checkpoint(0)
    row = make(prompts=secrets, texts=[]).measure("sft", path, tokenizer)
    assert "score" not in row
    assert (row["safety"]["n_unsafe"], row["safety"]["false_refusal_rate"]) == (5, None)


def test_without_a_judge_there_is_no_verdict(make, tmp_path, checkpoint, tokenizer, said):
    plain = [Prompt([{"role": "user", "content": "bado?"}], "helpfulness")]
    said.append([Draft("kilu", True, 3)])
    path = checkpoint(0)
    row = make(prompts=plain, texts=[], judge="none").measure("sft", path, tokenizer)
    assert set(row) == {"row", "model", "settings", "n", "length", "endings"}
    (sample,) = samples_of(tmp_path, "sft")
    assert sample == {"prompt": plain[0].messages, "completion": "kilu", "finished": True}


def test_with_vllm_a_checkpoint_is_loaded_for_perplexity_alone(make, checkpoint, tokenizer, prompts, said, monkeypatch):
    path, loaded, made = checkpoint(0), [], []
    load = checkpoints.load_model
    monkeypatch.setattr(
        checkpoints, "load_model", lambda *args, **kwargs: (loaded.append(args), load(*args, **kwargs))[1]
    )
    canned = evaluation.DialogSampler
    monkeypatch.setattr(
        evaluation, "DialogSampler", lambda *args, **options: (made.append((args[0], options)), canned())[1]
    )
    settings = EngineSettings("vllm", options={"tensor_parallel_size": 2})
    said += [drafts(prompts, 0), drafts(prompts, 0)]
    make(texts=[]).measure("sft", path, tokenizer, settings)
    assert loaded == []
    assert made == [(path, {"dtype": "float32", "tensor_parallel_size": 2})]
    make().measure("sft", path, tokenizer, settings)
    assert len(loaded) == 1


# -- what is measured again


def test_a_row_is_measured_once(make, tmp_path, checkpoint, tokenizer):
    path = checkpoint(0)
    made = make(prompts=[], judge="none")
    assert not made.done("sft", path)
    made.measure("sft", path, tokenizer)
    assert made.done("sft", path)
    assert make(prompts=[], judge="none").done("sft", path)
    assert not made.done("other", path)


def test_other_settings_prompts_and_texts_are_measured_again(make, checkpoint, tokenizer, prompts, texts, said):
    path = checkpoint(0)
    said.append(drafts(prompts, 0))
    make().measure("sft", path, tokenizer)
    assert make().done("sft", path)
    assert not make(settings={"seed": 1}).done("sft", path)
    assert not make(prompts=prompts[1:]).done("sft", path)
    assert not make(prompts=prompts[::-1]).done("sft", path)
    assert not make(texts=[*texts, Document("more")]).done("sft", path)


def test_a_checkpoint_retrained_in_its_directory_is_measured_again(make, tmp_path, checkpoint, tokenizer):
    path = checkpoint(0, tmp_path / "model")
    made = make(prompts=[], judge="none")
    before = made.measure("sft", path, tokenizer)["perplexity"]
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    checkpoint(0, tmp_path / "model")
    assert made.done("sft", path), "the same weights, written again"
    checkpoint(1, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").stat().st_size == size
    assert not made.done("sft", path)
    assert made.measure("sft", path, tokenizer)["perplexity"] != before
    assert made.done("sft", path)


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: "", lambda text: "[]"])
def test_half_a_row_is_not_taken_for_a_whole_one(make, tmp_path, checkpoint, tokenizer, damage):
    path = checkpoint(0)
    made = make(prompts=[], judge="none")
    made.measure("sft", path, tokenizer)
    whole = (tmp_path / "sft.json").read_text()
    (tmp_path / "sft.json").write_text(damage(whole))
    assert not made.done("sft", path)
    made.measure("sft", path, tokenizer)
    assert (tmp_path / "sft.json").read_text() == whole


def test_a_kill_before_the_end_of_a_row_leaves_no_row(
    make, tmp_path, checkpoint, tokenizer, prompts, said, monkeypatch
):
    def dies(*_):
        raise KeyboardInterrupt

    path = checkpoint(0)
    said.append(drafts(prompts, 0))
    monkeypatch.setattr(evaluation, "negative_log_likelihood", dies)
    with pytest.raises(KeyboardInterrupt):
        make().measure("sft", path, tokenizer)
    assert not (tmp_path / "sft.json").exists()
    assert not make().done("sft", path)


# -- all rows


def test_every_row_against_the_one_before_and_the_baseline(
    make, tmp_path, checkpoint, tokenizer, prompts, judges, said
):
    rows = ["pretrain", "sft", "ppo", "dpo"]
    made = make(texts=[], rewards=RewardModels.load(judges, recipe.load_reward_model))
    path = checkpoint(0)
    for seed, row in enumerate(rows):
        said.append(drafts(prompts, seed))
        made.measure(row, path, tokenizer)
    full = {row: read(tmp_path / f"{row}.json") for row in rows}

    summary = made.summary(rows, "sft")
    assert read(tmp_path / "metrics.json") == summary
    assert [row["row"] for row in summary["rows"]] == rows
    assert summary["decoding"] == {"temperature": made.params.temperature, "top_p": made.params.top_p}
    for row in summary["rows"]:
        whole = full[row["row"]]
        assert set(row) - {"win_rate"} == set(whole) - {"rewards", "settings"}
        assert row["score"] == {key: value for key, value in whole["score"].items() if key != "items"}
        assert row["safety"] == whole["safety"]
        if row["row"] == "sft":
            assert "win_rate" not in row
        else:
            mine, theirs = whole["rewards"]["combined"], full["sft"]["rewards"]["combined"]
            assert row["win_rate"] == {"against": "sft"} | win_rate(mine, theirs)
    between = [(d["from"], d["to"]) for d in summary["differences"]]
    assert len(between) == len(set(between)), "none twice"
    assert set(between) == {
        *(("pretrain", "sft"), ("sft", "ppo"), ("ppo", "dpo")),
        *(("sft", row) for row in rows if row != "sft"),
    }
    for found in summary["differences"]:
        items = (full[found[end]]["score"]["items"] for end in ("from", "to"))
        assert found == {"from": found["from"], "to": found["to"]} | paired_difference(*items)

    alone = made.summary(rows, None)
    assert [row.get("win_rate", {}).get("against") for row in alone["rows"]] == [None, "pretrain", "sft", "ppo"]
    assert [(d["from"], d["to"]) for d in alone["differences"]] == list(pairwise(rows))
    assert made.summary(["sft"], "sft")["differences"] == []


# -- the recipe


@pytest.fixture
def run(tmp_path, sandbox):
    """Runs the recipe's `main` and returns what it printed about rows that were there."""
    script = runpy.run_path(str(RECIPE))

    def call(models: dict, **changes) -> None:
        options = {
            "output_dir": str(tmp_path / "out"),
            "models": models,
            "datasets": [{"path": str(sandbox / "heldout.jsonl"), "limit": 6}],
            "texts": [{"path": str(sandbox / "corpus_heldout.jsonl")}],
            "judge": "sandbox",
            "max_new_tokens": 4,
            "context": CONTEXT,
        }
        script["main"](script["EvaluateArguments"](**options | changes))

    return call


def test_the_recipe_measures_only_what_changed(run, tmp_path, checkpoint, judges, capsys):
    models = {"a": checkpoint(0, tmp_path / "a"), "b": checkpoint(1, tmp_path / "b")}
    run(models, baseline="a", reward_models=judges)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(first) == {"a.json", "b.json", "samples_a.jsonl", "samples_b.jsonl", "metrics.json"}
    assert "measured before" not in capsys.readouterr().out
    run(models, baseline="a", reward_models=judges)
    assert capsys.readouterr().out.count("measured before") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    checkpoint(2, tmp_path / "b")
    run(models, baseline="a", reward_models=judges)
    assert capsys.readouterr().out.count("measured before") == 1, "b was trained again"
    run(models, baseline="b", reward_models=judges)
    assert capsys.readouterr().out.count("measured before") == 2, "another baseline needs no measuring"
    checkpoint(9, Path(judges["safety"]), AutoModelForSequenceClassification, num_labels=1)
    run(models, baseline="b", reward_models=judges)
    assert "measured before" not in capsys.readouterr().out, "another judge"
    run(models, baseline="b", reward_models=judges, dtype="bfloat16")
    assert "measured before" not in capsys.readouterr().out, "in another type"
    run(models, reward_models=judges, max_new_tokens=5)
    assert "measured before" not in capsys.readouterr().out, "other settings"


def test_a_later_row_whose_context_is_too_small_is_named(run, tmp_path, checkpoint):
    models = {"large": checkpoint(0), "small": checkpoint(0, max_position_embeddings=50)}
    found = r"found \d+( and \d+ more of up to \d+)? tokens, expected"
    with pytest.raises(RecordError, match=rf"record \d+ from sandbox, '.*', field 'messages': {found}"):
        run(models, texts=[])
    assert (tmp_path / "out" / "large.json").is_file(), "what was measured is kept"
    assert not (tmp_path / "out" / "small.json").exists()
    with pytest.raises(recipe.RecipeError, match=r"context: found 51, expected at most 50 tokens, the context of"):
        run({"small": models["small"]}, context=51, datasets=[], judge="none")


@pytest.mark.parametrize(
    ("models", "baseline", "expected"),
    [
        ({}, None, "models: found none, expected checkpoints by the name of their row"),
        ({"metrics": "x"}, None, "models: found 'metrics', expected the name of a file, other than metrics or step"),
        ({"a/b": "x"}, None, "models: found 'a/b'"),
        ({7: "x"}, None, "models: found 7"),
        ({"sft": "x"}, "stf", "baseline: found 'stf', expected one of sft"),
    ],
)
def test_rows_that_cannot_be(models, baseline, expected):
    with pytest.raises(recipe.RecipeError, match=expected):
        check_rows(models, baseline)
    check_rows({"sft": "x", "7b, step 3": "y"}, "sft")


def test_what_cannot_be_measured_is_named(make, prompts):
    with pytest.raises(recipe.RecipeError, match="judge: found 'exact', expected sandbox or none"):
        make(judge="exact")
    with pytest.raises(recipe.RecipeError, match="datasets, texts: found neither"):
        make(prompts=[], texts=[])
    with pytest.raises(recipe.RecipeError, match="found a prompt without a task"):
        make(prompts=[*prompts, Prompt([{"role": "user", "content": "bado?"}], "helpfulness")])
