"""One process, data parallel, ZeRO-2, ZeRO-3 and FSDP2 train the same model: same losses, gradients and weights.

Measured here: losses within 5e-7 relative, gradient norms within 3e-6, weights within 2e-6 absolute after 6 steps.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from accelerate import DistributedType, PartialState
from safetensors.torch import load_file
from transformers import AutoTokenizer

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, recipe

from .comparing import differences, moved

TOLERANCE = {"loss": 2e-6, "grad_norm": 1e-5, "weights": 1e-5}
STEPS, SAVED = 6, 3


def check(one, other, tolerance=TOLERANCE):
    found = differences(one, other)
    assert all(found[key] <= limit for key, limit in tolerance.items()), found


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ("pretrain", "cpu_ddp"),
        ("pretrain", "cpu_zero2"),
        ("pretrain", "cpu_zero3"),
        ("pretrain", "fsdp2"),
        ("sft", "cpu_ddp"),
        ("sft", "cpu_zero2"),
        ("sft", "cpu_zero3"),
        ("sft", "fsdp2"),
        ("reward", "cpu_ddp"),
        ("reward", "cpu_zero2"),
        ("reward", "cpu_zero3"),
        ("reward", "fsdp2"),
        ("dpo", "cpu_ddp"),
        ("dpo", "cpu_zero2"),
        ("dpo", "cpu_zero3"),
        ("dpo", "fsdp2"),
    ],
)
def test_two_processes_train_what_one_trains(launch, workshop, stage, config):
    one, two = launch(stage, "cpu_single"), launch(stage, config)
    check(one, two)
    # the comparison says something: weights moved by far more than the tolerance, over every step
    assert len(one.rows) == STEPS
    assert moved(one, load_file(workshop / "base" / "model.safetensors")) > 1e-3


def test_gradients_were_clipped_where_runs_are_compared(launch):
    # gradient_clipping: auto reached DeepSpeed, or the weights above would differ
    assert max(row["grad_norm"] for row in launch("pretrain", "cpu_single").rows) > 1.0


@pytest.mark.parametrize("config", ["cpu_ddp", "cpu_zero3", "fsdp2"])
def test_evaluation_does_not_depend_on_the_number_of_processes(launch, config):
    pretrain, reward = launch("pretrain", "cpu_single"), launch("reward", "cpu_single")
    assert launch("pretrain", config).metrics["eval_loss"] == pytest.approx(pretrain.metrics["eval_loss"], rel=1e-5)
    numbers = {key: value for key, value in reward.metrics.items() if isinstance(value, float)}
    assert "accuracy" in numbers
    assert {key: launch("reward", config).metrics[key] for key in numbers} == pytest.approx(numbers, abs=1e-4)


@pytest.mark.parametrize("config", ["cpu_ddp", "cpu_zero2", "cpu_zero3", "fsdp2"])
def test_the_finished_run_is_a_whole_checkpoint(launch, config):
    done = launch("pretrain", config)
    model, info = LlamaHerdForCausalLM.from_pretrained(done.path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    assert len(AutoTokenizer.from_pretrained(done.path)) == model.config.vocab_size
    for name, weight in done.weights.items():
        assert weight.equal(model.get_parameter(name)), name


@pytest.mark.parametrize("config", ["cpu_zero3", "fsdp2"])
def test_a_sharded_reward_model_is_a_whole_checkpoint(launch, config):
    done = launch("reward", config)
    model, info = LlamaHerdForSequenceClassification.from_pretrained(done.path, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.score.weight.shape == (1, model.config.hidden_size)


def test_dpo_references_computed_beforehand_under_zero3_belong_to_their_weights(launch, workshop):
    other = LlamaHerdForCausalLM.from_pretrained(workshop / "base")
    with torch.no_grad():
        other.model.norm.weight.mul_(1.5)
    other.save_pretrained(workshop / "other")
    AutoTokenizer.from_pretrained(workshop / "base").save_pretrained(workshop / "other")
    runs = [
        launch("dpo", config, precompute_ref_log_probs=True, max_steps=2, reference=str(workshop / name))
        for config, name in (("cpu_single", "base"), ("cpu_zero3", "base"), ("cpu_zero3", "other"))
    ]
    check(runs[0], runs[1])
    # one file, by the weights' digest: with the same name the second run would read the first one's in its folder
    first, second = ([file.name for file in run.path.glob("reference-*.arrow")] for run in runs[1:])
    assert len(first) == len(second) == 1
    assert first != second


def test_zero3_writes_shards_of_every_process(launch):
    shards = launch("pretrain", "cpu_zero3").path / f"checkpoint-{SAVED}" / f"global_step{SAVED}"
    for rank in (0, 1):
        assert (shards / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt").is_file()
        assert (shards / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").is_file()


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        ("pretrain", "cpu_ddp"),
        ("pretrain", "cpu_zero3"),
        ("pretrain", "fsdp2"),
        ("sft", "cpu_ddp"),
        ("reward", "cpu_ddp"),
        ("dpo", "cpu_zero2"),
        ("dpo", "fsdp2"),
    ],
)
def test_a_resumed_run_ends_as_the_undisturbed_one(launch, stage, config):
    whole = launch(stage, config)
    resumed = launch(stage, config, continues=whole)
    # the checkpoint was used: step 4 is the first one trained
    assert (resumed.path / f"checkpoint-{STEPS}").is_dir()
    assert [row["step"] for row in resumed.rows] == list(range(1, STEPS + 1))
    check(whole, resumed, {"loss": 0.0, "grad_norm": 0.0, "weights": 0.0})


def test_zero3_starts_from_weights_that_one_process_drew(launch):
    started = launch("pretrain", "cpu_zero3", model_name_or_path=None, size="herd-nano", max_steps=1, warmup_steps=0)
    vocabulary = started.weights["model.embed_tokens.weight"].shape[0]
    assert started.rows[0]["loss"] == pytest.approx(math.log(vocabulary), rel=0.03)
    # one step at the learning rate 0.01 moves a weight by 0.01 at most, weight decay aside
    inner = started.weights["model.layers.0.self_attn.q_proj.weight"]
    assert 0.01 < inner.std() < 0.04
    assert (started.weights["model.norm.weight"] - 1).abs().max() < 0.02


@dataclass
class Nothing:
    size: int = 0


def test_processes_that_found_no_group_are_refused(monkeypatch):
    state = {"num_processes": 2, "distributed_type": DistributedType.NO}
    monkeypatch.setattr(PartialState, "_shared_state", state)
    with pytest.raises(recipe.RecipeError, match="use_cpu: found false in 2 processes"):
        recipe.parse((Nothing,), [])
    state["distributed_type"] = DistributedType.MULTI_CPU
    recipe.parse((Nothing,), [])
