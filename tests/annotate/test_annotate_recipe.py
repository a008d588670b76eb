"""The annotation recipe: answers of all checkpoints, and files the reward recipe takes."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align.data import load_records
from llama_align.recipe import engines
from llama_align.sampling import DialogSampler, Draft
from llama_align.sandbox import World, instructions
from llama_align.sandbox.write import prompt_record

from ..docs.metric_names import assert_explained

RECIPE = Path(__file__).parents[2] / "recipes" / "annotate.py"


@pytest.fixture
def run(tmp_path, tiny_config, tokenizer, monkeypatch):
    """Runs the recipe on eight prompts of the sandbox and two checkpoints; returns its preferences and numbers."""
    records = [prompt_record(task) for task in instructions(World.generate(0), 0, 8, "rl")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(str(tmp_path / f"model-{seed}"))
        AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(models[-1])
        tokenizer.save_pretrained(models[-1])

    def call(sampler=DialogSampler, **changes):
        script = runpy.run_path(str(RECIPE))
        monkeypatch.setattr(engines, "DialogSampler", sampler)
        options = {"models": models, "datasets": [str(tmp_path / "prompts.jsonl")], "max_new_tokens": 6, "answers": 3}
        script["main"](script["AnnotateArguments"](output_dir=str(tmp_path / "out"), **options | changes))
        found = (tmp_path / "out" / "preferences.jsonl").read_text()
        pairs = load_records([str(tmp_path / "out" / "preferences.jsonl")], "preference")[0] if found else []
        assert_explained(tmp_path / "out")
        return pairs, json.loads((tmp_path / "out" / "metrics.json").read_text())

    call.models = models
    return call


def canned(said: dict[str, list[str]], asked: list):
    """Samplers that say the same to every prompt, one after the other as checkpoints are loaded."""
    answers = iter(said.values())

    class Canned:
        def __init__(self, *_):
            self.texts = next(answers)

        def __call__(self, prompts, params, keys=None, progress=False):
            asked.append(list(keys))
            return [[Draft(text, True, 3) for text in self.texts] for _ in prompts]

    return Canned


def test_a_pair_comes_from_two_checkpoints_wherever_it_can(run):
    asked: list = []
    pairs, _ = run(canned({"a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3"]}, asked))
    assert {frozenset((p.chosen, p.rejected)) for p in pairs} == {frozenset(("a1", "b1"))}
    assert len(pairs) == 8
    assert len({key for keys in asked for key in keys}) == 16, "no two checkpoints draw from one random stream"
    pairs, _ = run(canned({"a": ["x", "y", "z"], "b": ["x", "x", "x"]}, asked))
    assert {frozenset((p.chosen, p.rejected)) for p in pairs} == {frozenset(("x", "y"))}


def test_prompts_with_one_answer_only_are_counted(run):
    pairs, metrics = run(canned({"a": ["x"], "b": ["x"]}, []), answers=1)
    assert pairs == []
    counts = {"prompts": 8, "pairs": 0, "preferences": 0, "grades": {}, "left_out": {}, "pairs_that_differ": 0}
    safety = dict.fromkeys(("chosen_only", "both", "neither", "rejected_only", "unsaid"), 0)
    assert metrics == counts | {"safety": safety, "annotators": 1}


def test_in_half_precision(run, tmp_path, tiny_config, tokenizer):
    reward = str(tmp_path / "reward")
    AutoModelForSequenceClassification.from_config(tiny_config(num_labels=1)).save_pretrained(reward)
    tokenizer.save_pretrained(reward)
    _, metrics = run(dtype="bfloat16", annotator="reward", reward_models={"r": reward})
    assert metrics["pairs"] == 8
    with pytest.raises(ValueError, match="engine_options: found dtype with engine auto"):
        run(engine_options={"dtype": "half"})


def test_the_same_seed_gives_the_same_preferences(run):
    pairs, metrics = run(round=3)
    assert metrics["preferences"] == len(pairs) == sum(metrics["grades"].values()) == 8
    assert {pair.round for pair in pairs} == {3}
    assert run(round=3)[0] == pairs
    assert run(round=3, seed=1)[0] != pairs


def test_every_temperature_and_checkpoint_has_answers_and_prompts_take_turns_among_them(run):
    heats: list = []

    class Noted(DialogSampler):
        def __call__(self, prompts, params, keys=None, progress=False):
            heats.append((params.temperature, keys[0]))
            return [[Draft(f"{len(heats)}", True, 1)] for _ in prompts]

    pairs, metrics = run(Noted, temperature=[0.5, 1.0], answers=1)
    assert heats == [(0.5, 0), (0.5, 8), (1.0, 16), (1.0, 24)]
    assert metrics["pairs"] == 8
    assert {frozenset((p.chosen, p.rejected)) for p in pairs} == {frozenset(two) for two in ("12", "23", "34", "41")}
    with pytest.raises(ValueError, match="temperature: found none, expected at least one number"):
        run(temperature=[])
