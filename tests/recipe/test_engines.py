"""What the recipes that sample share: options refused, one model in memory at a time, prompts that fit all models."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align.data import load_records, write_jsonl
from llama_align.recipe import RecipeError, engines
from llama_align.recipe.engines import CachedEngineOptions, EngineOptions, EngineSettings, Samplers
from llama_align.rejection import run as rejection

RECIPE = Path(__file__).parents[2] / "recipes" / "rejection_sampling.py"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"options": {"dtype": "half"}},
            "engine_options: found dtype with engine auto, expected none; they",
        ),
        ({"engine": "vllm", "options": {"model": "x"}}, "engine_options: found model, expected none that is set here"),
        ({"engine": "vllm", "options": ["dtype"]}, r"engine_options: found \['dtype'\], expected options of vllm.LLM"),
        ({"engine": "vllm", "max_cached_tokens": 9}, "max_cached_tokens: found 9 with engine vllm, expected"),
        ({"max_cached_tokens": 0}, "max_cached_tokens: found 0 with engine auto, expected a number of at least 1"),
        ({"dtype": "float16"}, "dtype: found 'float16', expected auto, float32 or bfloat16"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(RecipeError, match=message):
        EngineSettings(**changes)


def test_a_sampler_gets_the_checkpoint_its_tokenizer_and_the_options_of_its_engine(save, monkeypatch):
    path, made = save(AutoModelForCausalLM), []
    monkeypatch.setattr(engines, "DialogSampler", lambda *args, **options: made.append((*args, options)))
    EngineSettings("vllm", options={"tensor_parallel_size": 2}).sampler(path)
    EngineSettings("native", max_cached_tokens=9).sampler(path)
    (found, tokenizer, *vllm), (model, _, *native) = made
    assert (found, tokenizer.name_or_path) == (path, path)
    assert vllm == ["vllm", {"dtype": "float32", "tensor_parallel_size": 2}]
    assert isinstance(model, torch.nn.Module)
    assert native == ["native", {"max_cached_tokens": 9}]


def test_options_of_a_recipe_become_settings():
    found = EngineOptions(engine="vllm", engine_options={"seed": 2}, dtype="bfloat16").engine_settings()
    assert found == EngineSettings("vllm", "bfloat16", {"seed": 2})
    assert CachedEngineOptions(max_cached_tokens=9).engine_settings() == EngineSettings(max_cached_tokens=9)


# -- in rejection sampling


@pytest.fixture(scope="module")
def save(tmp_path_factory, tiny_config, tokenizer):
    """Saves an untrained model with its tokenizer."""

    def call(auto, **changes) -> str:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        auto.from_config(tiny_config(**changes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return call


@pytest.fixture(scope="module")
def policy(save):
    return save(AutoModelForCausalLM)


@pytest.fixture(scope="module")
def reward(save):
    return save(AutoModelForSequenceClassification, num_labels=1)


@pytest.fixture
def run(tmp_path, policy, reward):
    """Samples from some prompts and returns the metrics."""

    def call(texts: list[str], output: str = "out", **changes) -> dict:
        rows = ({"messages": [{"role": "user", "content": text}], "objective": "safety"} for text in texts)
        write_jsonl(tmp_path / "prompts.jsonl", rows)
        options = {"model": policy, "reward_models": {"r": reward}, "datasets": [str(tmp_path / "prompts.jsonl")]}
        script = runpy.run_path(str(RECIPE))
        options |= {"answers": 6, "max_new_tokens": 40} | changes
        script["main"](script["RejectionSamplingArguments"](output_dir=str(tmp_path / output), **options))
        return json.loads((tmp_path / output / "metrics.json").read_text())

    return call


@pytest.fixture
def earlier(tmp_path, run):
    """The file of an earlier round's answers to a short and to a long prompt."""
    run(["me", "kilu " * 20], "before")
    return [str(tmp_path / "before" / "samples.jsonl")]


@pytest.mark.parametrize("role", ["reward_models", "heldout_models"])
def test_a_prompt_has_room_in_every_models_context(run, tmp_path, save, reward, earlier, role):
    short = save(AutoModelForSequenceClassification, num_labels=1, max_position_embeddings=26)
    named = {"reward_models": {"r": reward}} | {role: {"small": short}}
    message = f"{role}, small: its context of 26 tokens is too short: record 1 .*'bado'.* expected at most 6,"
    with pytest.raises(RecipeError, match=message):
        run(["bado"], max_new_tokens=20, **named)
    with pytest.raises(RecipeError, match=f"{role}, small: .* record 2 from earlier, 'kilu .* expected at most 25,"):
        run(["bado"], max_new_tokens=2, earlier=earlier, **named)
    assert not (tmp_path / "out").exists(), "before anything is sampled"


def test_prompts_too_long_for_a_reward_model_are_dropped_if_asked(run, tmp_path, save, earlier, capsys):
    short = save(AutoModelForSequenceClassification, num_labels=1, max_position_embeddings=40)
    found = run(["bado", "kilu " * 20], reward_models={"s": short}, too_long="drop", earlier=earlier, max_new_tokens=20)
    assert (found["samples"], found["earlier"]) == (12, 6)
    assert "reward_models, s: 1 prompts left out as longer than 20 tokens" in capsys.readouterr().out
    samples = load_records([str(tmp_path / "out" / "samples.jsonl")], "sample")[0]
    assert {s.prompt[0]["content"] for s in samples} == {"bado"}


def test_truncated_answers_are_counted(run, save):
    other = save(AutoModelForSequenceClassification, num_labels=1, initializer_range=0.1)
    assert run(["me"], heldout_models={"judge": other})["truncated"] == {"r": 0, "heldout/judge": 0}


def test_one_sampler_at_a_time_and_none_beside_reward_models(reward):
    alive, most = [], []

    class Sampler:
        def __init__(self, path):
            alive.append(path)
            most.append(len(alive))

        def __del__(self):
            alive.pop()

    load = Samplers(Sampler)
    first = id(load("a"))
    assert id(load("a")) == first
    load("b")
    assert (alive, most) == (["b"], [1, 1])
    rejection.judge_loader(load, "float32")(reward)
    assert alive == []
