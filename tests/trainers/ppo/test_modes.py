"""PPO with LoRA, in bfloat16, with checkpointed activations, with a steered KL coefficient; what it logs and leaves."""

import inspect
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState
from transformers import Trainer
from trl import RLOOTrainer

from llama_align import recipe
from llama_align.trainers.ppo.math import KLController
from llama_align.trainers.ppo.metrics import Tally

STEERED = {"beta": 0.1, "kl_target": 0.05, "kl_horizon": 50}


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def test_with_lora_the_reference_is_the_policy_without_its_adapter(trainer_of, logged, causal_path, tmp_path):
    trainer = trainer_of(peft_config=lora(), max_steps=4, learning_rate=1e-2, beta=0.1, output_dir=str(tmp_path))
    assert trainer.ref_model is None
    trainer.train()  # the first batch is checked: KL 0
    assert logged(trainer, "kl")[0] == pytest.approx(0.0, abs=1e-5)
    assert abs(logged(trainer, "kl")[-1]) > 1e-3
    base = load_file(Path(causal_path, "model.safetensors"))
    found = trainer.policy.get_base_model().state_dict()
    for name, tensor in base.items():
        layer, _, last = name.rpartition(".")
        assert torch.equal(tensor, found.get(name, found.get(f"{layer}.base_layer.{last}"))), name
    trainer.save_model(str(tmp_path))
    assert {p.name for p in tmp_path.iterdir()} >= {"adapter_model.safetensors", "value_model"}
    assert not (tmp_path / "model.safetensors").exists()


def test_dropout_is_off_everywhere(trainer_of, rollout, logged):
    adapter = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.5, target_modules=["q_proj", "v_proj"])
    trainer = trainer_of(peft_config=adapter, max_steps=1, learning_rate=1e-2, beta=0.1)
    trainer.train()  # from here on the adapter is not 0, and dropout before it would show
    batch = rollout(trainer)
    again = trainer._evaluate(trainer.model.train(), batch)
    kept = batch["completion_mask"].bool()
    assert (again.logps[kept] - batch["old_logps"][kept]).abs().max() < 1e-5
    assert (again.logps[kept] - trainer._reference_logps(batch)[kept]).abs().max() > 1e-3
    dropouts = [module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)]
    assert dropouts
    assert not any(dropouts)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"peft_config": lora(), "learning_rate": 1e-2}, id="lora"),
        pytest.param({"num_iterations": 2, **STEERED}, id="steered"),
        pytest.param({"gradient_checkpointing": True}, id="checkpointed"),
        pytest.param({"bf16": True}, id="bf16"),
    ],
)
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, trainer_of, logged, weights, options):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "value_learning_rate": 3e-3} | options
    whole = trainer_of(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = trainer_of(output_dir=str(tmp_path / "resumed"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    found = weights(resumed)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, found[name]), name
    assert whole.kl.coefficient == resumed.kl.coefficient
    assert (whole.kl.coefficient != 0.1) == ("kl_target" in options) or "kl_target" not in options
    states = [t.optimizer.state_dict()["state"] for t in (whole, resumed)]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert all(torch.equal(torch.as_tensor(state[n]), torch.as_tensor(states[1][key][n])) for n in state)
    for name in ("reward", "kl", "kl_coefficient", "loss/value", "grad_norm"):
        assert logged(whole, name)[-1:] == logged(resumed, name)[-1:], name


def test_a_checkpoint_of_other_processes_is_refused(tmp_path, trainer_of):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path)}
    trainer_of(**options).train()
    file = tmp_path / "checkpoint-1" / "rollout_0.pt"
    torch.save(torch.load(file) | {"processes": 2}, file)
    with pytest.raises(ValueError, match="found the answers of 2 processes, expected those of 1"):
        trainer_of(**options).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_checkpointed_activations_change_nothing(trainer_of, logged, weights):
    found = []
    for on in (False, True):
        trainer = trainer_of(gradient_checkpointing=on, max_steps=3)
        trainer.train()
        found.append((logged(trainer, "loss"), weights(trainer)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert all((tensor - found[1][1][name]).abs().max() < 1e-5 for name, tensor in found[0][1].items())


def test_in_bfloat16_it_learns_what_it_learns_in_float32(trainer_of, logged):
    runs = []
    for on in (False, True):
        trainer = trainer_of(bf16=on, max_steps=2)
        trainer.train()
        assert trainer.checks.half == on
        runs.append(trainer)
    assert logged(runs[1], "policy/ratio")[0] == pytest.approx(1.0, abs=1e-2)
    for name in ("loss/value", "entropy", "kl"):
        assert logged(runs[1], name)[0] == pytest.approx(logged(runs[0], name)[0], rel=0.05, abs=0.05), name


def test_one_by_eight_is_eight_by_one(trainer_of, logged, weights):
    """However a step's answers are split: answers of 1 to 30 tokens, so that means of means would differ."""
    found = []
    for size, steps in ((8, 1), (1, 8)):
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = trainer_of(**split, max_completion_length=30, num_iterations=2, max_steps=4)
        trainer.train()
        rows = {name: logged(trainer, name) for name in ("loss", "grad_norm", "kl", "value/explained_variance")}
        found.append((rows, weights(trainer)))
    for name, values in found[0][0].items():
        assert values == pytest.approx(found[1][0][name], rel=1e-4, abs=1e-5), name
    assert all((tensor - found[1][1][name]).abs().max() < 1e-5 for name, tensor in found[0][1].items())


def test_policy_and_critic_learn_at_rates_of_their_own(trainer_of):
    trainer = trainer_of(learning_rate=1e-3, value_learning_rate=5e-3, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    critic = {id(weight) for weight in trainer.value_model.parameters()}
    seen = {}
    for group in optimizer.param_groups:
        for weight in group["params"]:
            assert group["lr"] == (5e-3 if id(weight) in critic else 1e-3)
            assert group["weight_decay"] == (0.1 if weight.ndim > 1 else 0.0)
            seen[id(weight)] = seen.get(id(weight), 0) + 1
    assert seen == {id(weight): 1 for weight in trainer.model.parameters()}


def test_the_steered_coefficient_follows_ziegler():
    kl = KLController(0.1, target=6.0, horizon=1000)
    wanted = 0.1
    for found, error in ((3.0, -0.2), (6.6, 0.1), (6.0, 0.0), (60.0, 0.2)):
        kl.update(found, 100)
        wanted *= 1 + error * 100 / 1000
        assert kl.coefficient == pytest.approx(wanted, rel=1e-12)
    small = KLController(0.1, target=6.0, horizon=10)
    small.update(0.0, 512)
    assert small.coefficient == pytest.approx(0.01)
    fixed = KLController(0.1)
    fixed.update(100.0, 100)
    assert fixed.coefficient == 0.1


def test_the_coefficient_of_a_rollout_is_the_one_before_it(trainer_of, logged):
    trainer = trainer_of(max_steps=3, **STEERED)
    trainer.train()
    kl, found = KLController(0.1, 0.05, 50), logged(trainer, "kl_coefficient")
    for measured, coefficient in zip(logged(trainer, "kl"), found, strict=True):
        assert coefficient == pytest.approx(kl.coefficient, rel=1e-6)
        kl.update(measured, 8)


def test_answers_left_out_do_not_whiten_the_others(trainer_of, rollout):
    def reward(prompts, answers, finished, rows):
        return [float(len(answer)) if done else 1e6 for answer, done in zip(answers, finished, strict=True)]

    options = {"whiten_advantages": False, "beta": 0.0, "lam": 1.0, "max_completion_length": 30}
    trainer = trainer_of(reward, mask_truncated_completions=True, per_device_train_batch_size=16, **options)
    batch = rollout(trainer, 16)
    kept = batch["completion_mask"].any(1)
    assert 1 < kept.sum() < 16
    scores = batch["returns"][kept, 0]
    assert scores.mean() == pytest.approx(0.0, abs=1e-4)
    assert scores.std(correction=0) == pytest.approx(1.0, abs=1e-3)
    means = trainer.tallies["train"].read(lambda tensor: tensor)
    assert means["reward"] < 1e6
    assert means["answers/kept"] == pytest.approx(kept.float().mean().item())


def test_evaluation_counts_for_itself(trainer_of, prompt_rows):
    trainer = trainer_of(max_steps=1)
    trainer.train()
    found = trainer.evaluate(prompt_rows(8, seed=1))
    assert {"eval_loss"} <= found.keys()
    assert "eval_reward" in trainer.state.log_history[-1]


def test_a_tally_is_exact_under_any_split():
    draw = torch.Generator().manual_seed(0)
    values, mask = torch.randn(7, 5, generator=draw), torch.rand(7, 5, generator=draw) > 0.4
    whole, parts = Tally(), Tally()
    for tally, rows in ((whole, [7]), (parts, [1, 2, 4])):
        for value, weight in zip(values.split(rows), mask.split(rows), strict=True):
            tally.add("x", value, weight)
            tally.add("_return", value, weight)
            tally.add("_return_squared", value**2, weight)
            tally.add("_value_error", (value - 1) ** 2, weight)
    found, split = (tally.read(lambda tensor: tensor) for tally in (whole, parts))
    assert found == pytest.approx(split, rel=1e-12)
    kept = values[mask].double()
    assert found["x"] == pytest.approx(kept.mean().item())
    wanted = 1 - ((kept - 1) ** 2).mean() / kept.var(correction=0)
    assert found["value/explained_variance"] == pytest.approx(wanted.item())
    assert whole.read(lambda tensor: tensor) == {}


def test_the_model_card_says_what_was_done(trainer_of, tmp_path):
    trainer = trainer_of(output_dir=str(tmp_path))
    trainer.train()
    recipe.finish(trainer, {"prompts": 16}, {"prompt": [{"path": "data/prompts.jsonl"}]})
    card = (tmp_path / "README.md").read_text()
    assert card.count("Made by") == 1
    assert "| data (`data_cards/prompt.md` of llama_align) | `data/prompts.jsonl` |" in card
    assert "](data_cards" not in card
    assert f"| reward | {trainer.state.log_history[0]['reward']} |" in card
    assert "| kl | " in card
    assert "Llama 2, section 3.2.3" in card
    assert "| beta | 0.01 |" in card
    assert "| answers/finished |" in card
    assert "the critic is in value_model/" in card


@pytest.mark.parametrize(
    "options",
    [
        {"sync_ref_model": True},
        {"epsilon_high": 0.3},
        {"normalize_advantages": True},
        {"ref_model_sync_steps": 5},
        {"chat_template_kwargs": {"a": 1}},
        {"log_completions": True},
        {"generation_kwargs": {"num_beams": 2}},
        {"cache_implementation": "static"},
        {"use_transformers_continuous_batching": True},
        {"ds3_gather_for_generation": False},
        {"kl_target": 6.0, "beta": 0.0},
        {"kl_target": -1.0},
    ],
)
def test_settings_that_mean_nothing_are_refused(trainer_of, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}: found"):
        trainer_of(**options)


def test_every_logged_number_is_explained(trainer_of):
    trainer = trainer_of(max_steps=1)
    trainer.train()
    told = inspect.getdoc(type(trainer))
    ours = trainer.state.log_history[0].keys() - {"loss", "grad_norm", "learning_rate", "epoch", "step", "step_time"}
    missing = [name for name in ours if name not in told and not name.startswith("rewards/")]
    assert not missing


def test_the_private_hooks_of_trl_and_transformers_are_what_we_rely_on():
    def names(function) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert names(RLOOTrainer._generate_single_turn) == ["self", "prompt_ids", "images", "multimodal_fields"]
    assert names(RLOOTrainer._generate_and_score_completions) == ["self", "inputs"]
    assert names(RLOOTrainer._compute_loss) == ["self", "model", "inputs"]
    assert names(RLOOTrainer._save_checkpoint) == ["self", "model", "trial"]
    assert names(Trainer._load_optimizer_and_scheduler) == ["self", "checkpoint"]
    assert names(Trainer._save) == ["self", "output_dir", "state_dict"]
    source = inspect.getsource(RLOOTrainer._prepare_inputs)
    assert "self._step % generate_every == 0 or self._buffered_inputs is None" in source
    prepared = inspect.getsource(Trainer._prepare_for_training)
    assert "self._wrap_model(self.model_wrapped)" in prepared


def test_vllm_is_refused_for_a_model_it_does_not_know(trainer_of):
    with pytest.raises(
        ValueError, match=r"^use_vllm: found True for a LlamaHerd, .* expected a policy in Llama's form"
    ):
        trainer_of(use_vllm=True)


def test_fsdp1_is_refused_in_one_line(trainer_of, monkeypatch):
    create = Trainer.create_accelerator_and_postprocess

    def under_fsdp(self):
        create(self)
        self.is_fsdp_enabled = True

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", under_fsdp)
    with pytest.raises(ValueError, match="fsdp_version: found 1, expected 2"):
        trainer_of()


def test_a_policy_under_fsdp2_is_told_its_root_before_it_samples():
    """The one hook of torch's that we call by its private name."""
    state = inspect.getsource(FSDPState._lazy_init)
    assert "self._is_root is not None" in state
    assert callable(FSDPModule._get_fsdp_state)
