"""The names and signatures of TRL's that our trainers override, patch or call. After an update of TRL start here."""

import dataclasses
import inspect

import peft
import pytest
import trl
from transformers import Trainer
from transformers.integrations import deepspeed as zero
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, RLOOConfig, RLOOTrainer, SFTConfig, SFTTrainer
from trl.models import utils as model_utils
from trl.trainer import dpo_trainer, reward_trainer, rloo_trainer, sft_trainer, utils
from trl.trainer.base_trainer import _BaseTrainer

from llama_align.trainers import HerdDPOTrainer, HerdRewardTrainer, HerdSFTTrainer
from llama_align.trainers.heads import attach_head

SELF_MODEL = ["self", "model"]
TRAINERS = {SFTTrainer: sft_trainer, RewardTrainer: reward_trainer, DPOTrainer: dpo_trainer, RLOOTrainer: rloo_trainer}
LOSS = [*SELF_MODEL, "inputs", "return_outputs", "num_items_in_batch"]
# what we override (and mostly call through `super()`), with the parameters in order
OVERRIDDEN = {
    (SFTTrainer, "compute_loss"): LOSS,
    (SFTTrainer, "training_step"): ["self", "args", "kwargs"],
    (RewardTrainer, "compute_loss"): LOSS,
    (RewardTrainer, "_set_signature_columns_if_needed"): ["self"],
    (RewardTrainer, "_prepare_dataset"): ["self", "dataset", "processing_class", "args", "dataset_name"],
    (RewardTrainer, "log"): ["self", "logs", "start_time"],
    (DPOTrainer, "_prepare_dataset"): ["self", "dataset", "processing_class", "args", "dataset_name"],
    (DPOTrainer, "_precompute_ref_logps"): ["self", "dataset", "name", "batch_size"],
    (DPOTrainer, "compute_ref_log_probs"): [*SELF_MODEL, "inputs"],
    (DPOTrainer, "compute_loss"): LOSS,
    (DPOTrainer, "_compute_loss"): [*SELF_MODEL, "inputs", "return_outputs"],
    (DPOTrainer, "log"): ["self", "logs", "start_time"],
    (RLOOTrainer, "_get_train_sampler"): ["self", "dataset"],
    (RLOOTrainer, "create_optimizer"): [*SELF_MODEL],
    (RLOOTrainer, "_save_checkpoint"): [*SELF_MODEL, "trial"],
    (RLOOTrainer, "_load_from_checkpoint"): ["self", "resume_from_checkpoint", "model"],
    (RLOOTrainer, "_generate_and_score_completions"): ["self", "inputs"],
    (RLOOTrainer, "_generate_single_turn"): ["self", "prompt_ids", "images", "multimodal_fields"],
    (RLOOTrainer, "_compute_loss"): [*SELF_MODEL, "inputs"],
    (_BaseTrainer, "create_model_card"): ["self", "model_name", "dataset_name", "tags"],
}


@pytest.mark.parametrize(("where", "parameters"), OVERRIDDEN.items(), ids=lambda x: getattr(x, "__name__", None))
def test_methods_we_override_take_what_they_took(where, parameters):
    owner, name = where
    assert hasattr(owner, name), f"trl {trl.__version__}: {owner.__name__}.{name} is gone"
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert found == parameters, f"trl {trl.__version__}: {owner.__name__}.{name}{tuple(found)}"


def test_the_head_that_we_replace():
    wanted = ["model", "temperature", "cast_lm_head_to_fp32", "outputs"]
    assert list(inspect.signature(utils.add_fused_lm_head).parameters) == wanted
    assert list(inspect.signature(attach_head).parameters)[:4] == wanted
    for module in (sft_trainer, dpo_trainer):
        assert module.add_fused_lm_head is utils.add_fused_lm_head
        # looked up in the module when a trainer is made, or replacing it there would do nothing
        trainer = {sft_trainer: SFTTrainer, dpo_trainer: DPOTrainer}[module]
        assert "add_fused_lm_head" in trainer.__init__.__code__.co_names
    fields = {field.name for field in dataclasses.fields(utils.FusedCausalLMOutput)}
    assert fields == {
        *("loss", "log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1", "label_mask", "aux_loss")
    }


def test_what_we_stand_in_for_while_a_trainer_is_made():
    """Looked up in the module at that moment, as `llama_align.trainers.making` has it."""
    for trainer, module in TRAINERS.items():
        assert "get_peft_model" in trainer.__init__.__code__.co_names
        assert module.get_peft_model is peft.get_peft_model
    for trainer, module in ((DPOTrainer, dpo_trainer), (RLOOTrainer, rloo_trainer)):
        assert "create_model_from_path" in trainer.__init__.__code__.co_names
        assert list(inspect.signature(module.create_model_from_path).parameters)[:2] == ["model_id", "architecture"]


def test_the_collator_that_we_extend():
    fields = [field.name for field in dataclasses.fields(dpo_trainer.DataCollatorForPreference)]
    assert fields == ["pad_token_id", "max_length", "truncation_mode", "pad_to_multiple_of", "return_tensors"]
    row = {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5], "ref_chosen_logps": 0.5}
    batch = dpo_trainer.DataCollatorForPreference(pad_token_id=0, max_length=3)([row | {"ref_rejected_logps": 1.5}])
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[1, 2, 3], [1, 2, 4]],
        "attention_mask": [[1, 1, 1], [1, 1, 1]],
        "completion_mask": [[0, 0, 1], [0, 0, 1]],
        "ref_chosen_logps": [0.5],
        "ref_rejected_logps": [1.5],
    }


def source(function) -> str:
    return " ".join(inspect.getsource(function).split())


def test_dpo_reads_the_policy_as_we_intercept_it():
    loss = source(DPOTrainer._compute_loss)
    # one call of the model handed in, whose log-probabilities are summed as they are: `scored_once` masks them
    assert loss.count("= model(**model_kwargs, labels=labels, fused_lm_head=True)") == 1
    assert "logps = per_token_logps.sum(dim=1)" in loss
    assert "per_token_logps = outputs.log_probs[:, -seq_len:]" in loss
    assert "_non_model_keys" in loss
    # and once more, without a fused head, for the logits that are asked for
    assert loss.count("outputs = model(**model_kwargs)") == 1
    assert "_non_model_keys" in source(DPOTrainer.compute_ref_log_probs)
    # the policy of a reference computed beforehand is the initial one: it is computed before training begins
    assert "self._precompute_ref_logps(" in source(DPOTrainer.__init__)
    assert "hash_module(self.ref_model or self.model)" in source(DPOTrainer.__init__)
    assert "dataset._get_cache_file_path(fingerprint)" in source(DPOTrainer._precompute_ref_logps)
    assert "Hasher.hash((dataset._fingerprint, model_hash))" in source(DPOTrainer._precompute_ref_logps)


def test_metrics_are_lists_that_log_averages():
    for trainer in (SFTTrainer, RewardTrainer, DPOTrainer, RLOOTrainer):
        assert "self._metrics = {" in source(trainer.__init__)
        assert '"train": defaultdict(list), "eval": defaultdict(list)' in source(trainer.__init__)
        assert "metrics = {key: sum(val) / len(val) for" in source(trainer.log) or trainer is RLOOTrainer
    for trainer in (SFTTrainer, DPOTrainer):
        assert "self._total_train_tokens" in source(trainer.__init__)


def test_losses_are_divided_by_the_steps_of_accumulation_unless_a_trainer_says_otherwise():
    assert RewardTrainer.loss_is_scaled_for_ga is False
    assert DPOTrainer.loss_is_scaled_for_ga is False
    assert "loss_is_scaled_for_ga = self.loss_is_scaled_for_ga" in source(Trainer.training_step)
    assert "self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)" in source(Trainer.training_step)
    assert list(inspect.signature(Trainer.get_batch_samples).parameters) == [
        *("self", "epoch_iterator", "num_batches", "device")
    ]
    assert "average_tokens_across_devices" in source(SFTTrainer.compute_loss)


def test_ours_are_found_where_trl_looks():
    assert issubclass(HerdSFTTrainer, SFTTrainer)
    assert issubclass(HerdRewardTrainer, RewardTrainer)
    assert issubclass(HerdDPOTrainer, DPOTrainer)
    # transformers names runs and cards by these
    assert all(hasattr(trainer, "_tag_names") for trainer in (SFTTrainer, RewardTrainer, DPOTrainer, RLOOTrainer))
    assert "self.create_model_card(model_name=model_name)" in source(DPOTrainer._save_checkpoint)


def test_what_ppo_takes_from_rloo():
    for name in ("_metrics", "ref_model", "use_vllm", "num_iterations", "_buffered_inputs", "_step", "epsilon_low"):
        assert f"self.{name} =" in source(RLOOTrainer.__init__), name
    for name in (
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "max_completion_length",
        "mask_truncated_completions",
    ):
        assert f"self.{name} = args.{name}" in source(RLOOTrainer.__init__), name
    # put off and on around sampling under ZeRO-3
    for function in (model_utils.add_hooks, model_utils.remove_hooks):
        assert list(inspect.signature(function).parameters) == ["model"]
    assert next(iter(inspect.signature(model_utils.disable_gradient_checkpointing).parameters)) == "model"
    assert list(inspect.signature(utils.use_adapter).parameters) == ["model", "adapter_name"]
    assert list(inspect.signature(utils.pad).parameters)[:3] == ["tensors", "padding_value", "padding_side"]


def test_the_sampler_that_ppo_seeds_by_epoch():
    sampler = utils.RepeatSampler(range(6), mini_repeat_count=1, shuffle=True, seed=3)
    assert (sampler.shuffle, sampler.seed) == (True, 3)
    sampler.generator.manual_seed(5)
    order = list(sampler)
    sampler.generator.manual_seed(5)
    assert list(sampler) == order
    assert not utils.RepeatSampler(range(6), mini_repeat_count=1, shuffle=False).shuffle


def test_the_configuration_that_reward_models_are_loaded_outside_of():
    assert hasattr(zero, "_hf_deepspeed_config_weak_ref")
    assert "_hf_deepspeed_config_weak_ref = weakref.ref(" in source(zero.set_hf_deepspeed_config)
    assert "_hf_deepspeed_config_weak_ref = None" in source(zero.unset_hf_deepspeed_config)


OPTIONS = {
    SFTConfig: {"packing": False, "padding_free": False, "completion_only_loss": None, "loss_type": "nll"},
    DPOConfig: {"padding_free": False, "precompute_ref_log_probs": False, "ld_alpha": None, "beta": 0.1},
    RewardConfig: {"center_rewards_coefficient": None, "pad_token": None},
    RLOOConfig: {"epsilon_high": None, "reward_clip_range": None, "reward_weights": None},
}


@pytest.mark.parametrize("config", OPTIONS, ids=lambda config: config.__name__)
def test_options_we_refuse_or_read_have_the_defaults_they_had(config):
    fields = config.__dataclass_fields__
    assert {name: fields[name].default for name in OPTIONS[config]} == OPTIONS[config]


def test_references_under_fsdp2_are_still_one_unit_of_trls():
    """Once TRL shards them by layers, `sharding.references_by_layers` can go."""
    source = inspect.getsource(model_utils.prepare_fsdp)
    assert source.count("fully_shard(model, **fsdp2_kwargs)") == source.count("fully_shard(") == 1
    for module in (dpo_trainer, rloo_trainer):
        assert module.prepare_fsdp is model_utils.prepare_fsdp
        assert "self.ref_model = prepare_fsdp(self.ref_model, self.accelerator)" in inspect.getsource(module)
