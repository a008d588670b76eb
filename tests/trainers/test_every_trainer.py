"""What reward, DPO and SFT trainers share: checkpointing, bfloat16, LoRA, resume, refused options, model cards."""

import json
import logging

import pytest
import torch
from peft import LoraConfig
from trl import ModelConfig

from llama_align import recipe
from llama_align.data import demonstration_rows, preference_rows, ranking_rows
from llama_align.rewards import RewardScorer
from llama_align.trainers import (
    HerdDPOConfig,
    HerdDPOTrainer,
    HerdRewardConfig,
    HerdRewardTrainer,
    HerdSFTConfig,
    HerdSFTTrainer,
    margin_table,
)

KINDS = ("sft", "reward", "dpo")
LORA = ModelConfig(use_peft=True, lora_r=4, lora_alpha=8, lora_dropout=0.0)


@pytest.fixture
def trainer_of(checkpoint, tokenizer, settings, preferences, demonstrations):
    paths = {"sft": checkpoint(), "dpo": checkpoint(), "reward": checkpoint("reward")}

    def make(kind: str, lora: bool = False, dtype=torch.float32, count: int = 24, path: str | None = None, **changes):
        options = settings | {"per_device_train_batch_size": 4} | changes
        if kind != "reward":
            options = {"max_length": 160} | options
        model = recipe.load_model(path or paths[kind], "reward" if kind == "reward" else "causal", dtype=dtype)
        config, trainer, rows = {
            "sft": (HerdSFTConfig, HerdSFTTrainer, lambda: demonstration_rows(demonstrations(80), tokenizer, 160)[0]),
            "dpo": (HerdDPOConfig, HerdDPOTrainer, lambda: preference_rows(preferences(count), tokenizer, 160)[0]),
            "reward": (
                HerdRewardConfig,
                HerdRewardTrainer,
                lambda: ranking_rows(preferences(count), tokenizer, 160, margin_table("small"))[0],
            ),
        }[kind]
        return trainer(
            model,
            args=config(**options),
            train_dataset=rows(),
            processing_class=tokenizer,
            peft_config=recipe.lora_config(LORA, reward=kind == "reward") if lora else None,
        )

    return make


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_changes_no_number(trainer_of, kind, lora):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)  # of LoRA's first weights
        trainer = trainer_of(kind, lora, gradient_checkpointing=checkpointing, max_steps=2, optim="sgd")
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        trainer.train()
        layer = next(m for m in trainer.model.modules() if type(m).__name__ == "LlamaHerdDecoderLayer")
        assert layer.gradient_checkpointing == checkpointing
        found.append(trainer.model.state_dict())
    assert any((weight - before[name]).abs().max() > 1e-4 for name, weight in found[0].items())
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], atol=1e-7, rtol=1e-6, msg=name)


@pytest.mark.parametrize("precision", ["autocast", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_trains_near_float32(trainer_of, kind, precision):
    exact = trainer_of(kind, max_steps=3, learning_rate=1e-3)
    exact.train()
    options = {"bf16": True} if precision == "autocast" else {"dtype": torch.bfloat16}
    trainer = trainer_of(kind, max_steps=3, learning_rate=1e-3, **options)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (exact, trainer)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
    after = trainer.model.state_dict()
    assert all(weight.dtype == before[name].dtype for name, weight in after.items())
    assert any((weight - before[name]).abs().max() > 0 for name, weight in after.items())


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_bit_for_bit_as_the_undisturbed_one(trainer_of, tmp_path, kind, lora):
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    options |= {"lr_scheduler_type": "cosine", "warmup_steps": 2, "per_device_train_batch_size": 2}
    runs = []
    for name in ("whole", "resumed"):
        torch.manual_seed(0)
        trainer = trainer_of(kind, lora, output_dir=str(tmp_path / name), **options)
        torch.rand(len(name))  # what a process drew before must not matter
        if name == "whole":
            trainer.train()
        else:
            trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
        runs.append(trainer)
    whole, resumed = (trainer.model.state_dict() for trainer in runs)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    optimizers = [trainer.optimizer.state_dict()["state"] for trainer in runs]
    assert all(torch.equal(optimizers[0][i]["exp_avg"], optimizers[1][i]["exp_avg"]) for i in optimizers[0])
    clock = ("runtime", "per_second", "mfu")
    logs = [
        [{k: v for k, v in row.items() if not any(part in k for part in clock)} for row in t.state.log_history[:-1]]
        for t in runs
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("kind", KINDS)
def test_lora_trains_adapters_alone_and_comes_back_from_disk(trainer_of, tmp_path, tokenizer, kind):
    trainer = trainer_of(kind, lora=True, max_steps=3, output_dir=str(tmp_path / "lora"))
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, weight in trainer.model.state_dict().items() if not torch.equal(weight, before[name])}
    assert moved
    assert all("lora_" in name or (kind == "reward" and "score.modules_to_save" in name) for name in moved)
    assert any("score.modules_to_save" in name for name in moved) == (kind == "reward")
    recipe.finish(trainer, {})
    ids = torch.tensor([[5, 9, 30, 12, 7]])
    loaded = recipe.load_model(str(tmp_path / "lora"), "reward" if kind == "reward" else "causal", new_head=False)
    with torch.no_grad():
        ours, theirs = (m.eval()(input_ids=ids).logits for m in (trainer.model, loaded))
    torch.testing.assert_close(ours, theirs)


def test_a_saved_adapter_of_a_reward_model_scores_through_the_sampler(trainer_of, tmp_path, tokenizer):
    trainer = trainer_of("reward", lora=True, max_steps=2, output_dir=str(tmp_path / "lora"))
    trainer.train()
    recipe.finish(trainer, {})
    rows = [row["answers_ids"][0] for row in trainer.train_dataset]
    scores = RewardScorer(trainer.accelerator.unwrap_model(trainer.model), tokenizer.pad_token_id).score(rows)
    model = recipe.load_reward_model(str(tmp_path / "lora"))
    assert model.scorer.score(rows) == pytest.approx(scores, abs=1e-5)


UNUSED = {
    HerdSFTConfig: {"packing": True, "padding_free": True, "completion_only_loss": True, "eos_token": "</s>"},
    HerdDPOConfig: {"padding_free": True, "pad_to_multiple_of": 8, "pad_token": "<pad>"},
    HerdRewardConfig: {"max_length": 512, "chat_template_path": "a.jinja", "pad_token": "<pad>"},
}


@pytest.mark.parametrize(
    ("config", "option"), [(config, option) for config, options in UNUSED.items() for option in options.items()]
)
def test_an_option_of_trl_that_would_have_no_effect_is_refused(settings, config, option):
    name, value = option
    with pytest.raises(ValueError, match=rf"{name}: found .*, expected it left at .*; it has no effect: "):
        config(**settings | {name: value})


@pytest.mark.parametrize("kind", KINDS)
def test_the_glossary_names_every_logged_metric(trainer_of, kind):
    trainer = trainer_of(kind, eval_strategy="no", max_steps=2)
    trainer.train()
    general = {"epoch", "step", "learning_rate", "grad_norm", "loss", "num_input_tokens_seen"}
    glossary = type(trainer).__doc__
    for row in trainer.state.log_history:
        if "loss" not in row:
            continue
        for name in set(row) - general:
            family = name.rsplit("/", 1)[0] + "/<"
            assert f"`{name}`" in glossary or family in glossary, name


def test_the_card_names_recipe_command_data_and_metrics(trainer_of, tmp_path, monkeypatch):
    trainer = trainer_of("dpo", output_dir=str(tmp_path / "out"), nll_coefficient=0.0, mask_format_tokens=False)
    trainer.train()
    monkeypatch.setattr("sys.argv", ["recipes/dpo.py", "--config", "recipes/a b.yaml"])
    recipe.finish(trainer, {"pairs": 24, "alarms": trainer.alarms}, {"preference": [{"path": "data/pairs.jsonl"}]})
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "python recipes/dpo.py --config 'recipes/a b.yaml'",
        "data_cards/preference.md",
        "`data/pairs.jsonl`",
        "| pairs | 24 |",
        "| alarms/no_content | 0 |",
        "| objective | DPO (sigmoid, beta 0.1), on all tokens of the answers |",
        "Llama 3, section 4.1.4",
    ):
        assert part in card, part
    assert "None" not in card
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["alarms"]["chosen_falling"] == 0


def test_the_card_of_a_reward_model_follows_its_objectives(trainer_of):
    cards = {
        "ranking with margin small": {},
        "ranking without margin + 0.01 x center": {"objectives": {"bradley_terry": 1.0, "center": 0.01}},
        "ranking with margin large + 0.01 x center": {"margin": "large", "center_rewards_coefficient": 0.01},
    }
    for words, options in cards.items():
        assert trainer_of("reward", **options).objective == words


def test_lora_on_another_base_needs_no_reference_of_its_own(trainer_of, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = trainer_of("dpo", lora=True)
    assert trainer.ref_model is None
    assert isinstance(trainer.model.peft_config["default"], LoraConfig)
