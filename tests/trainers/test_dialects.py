"""Every trainer makes a step on a model of every dialect, with tokenizers that have no pad or pad with their end."""

import math

import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, recipe
from llama_align.chat import ControlTokens, encode_answer, render, render_prompt
from llama_align.data import demonstration_rows, preference_rows, ranking_rows
from llama_align.rewards import RewardModel
from llama_align.sampling import DialogSampler, SamplingParams
from llama_align.trainers import (
    HerdDPOConfig,
    HerdDPOTrainer,
    HerdRewardConfig,
    HerdRewardTrainer,
    HerdSFTConfig,
    HerdSFTTrainer,
    PPOConfig,
    PPOTrainer,
)

from ..chat.families import make
from ..conftest import made_up_text

LENGTH = 256
DIALOG = [{"role": "user", "content": "bado"}, {"role": "assistant", "content": "kilu"}]


@pytest.fixture(scope="module", params=["llama-3.0", "llama-2", "smollm2", "tinyllama"])
def published(request, tmp_path_factory, tiny_config):
    """A folder with a tiny model and a tokenizer as they are published, and a reward model's beside it."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = make(request.param, [made_up_text(40, seed) + "\nÄpfel, 東京\n\n" for seed in range(20)])
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}
    torch.manual_seed(0)
    for kind, model in (("policy", LlamaHerdForCausalLM), ("reward", LlamaHerdForSequenceClassification)):
        extra = {"num_labels": 1} if kind == "reward" else {}
        made = model(tiny_config(**ids, **extra))
        if kind == "policy":
            with torch.no_grad():  # so that it ends its turns often
                made.lm_head.weight[ControlTokens.of(tokenizer).eot] *= 3
        made.save_pretrained(folder / kind)
        tokenizer.save_pretrained(folder / kind)
    return folder


@pytest.fixture
def tokenizer(published):
    return recipe.load_tokenizer(str(published / "policy"))


@pytest.fixture
def policy(published, tokenizer):
    return recipe.load_model(str(published / "policy"), tokenizer=tokenizer)


def last_log(trainer, name: str) -> float:
    return [row[name] for row in trainer.state.log_history if name in row][-1]


def test_the_dialect_is_said_once(published, capsys):
    recipe.checkpoints._announce.cache_clear()
    for _ in range(2):
        recipe.load_tokenizer(str(published / "policy"))
    said = capsys.readouterr().out
    assert said.count("form of dialogs") == 1
    assert "pad_token" in said


def test_sft(policy, tokenizer, settings, demonstrations, tmp_path):
    tokens = ControlTokens.of(tokenizer)
    rows, _ = demonstration_rows(demonstrations(20), tokenizer, LENGTH, too_long="drop")
    labels = torch.tensor(rows["labels"])
    ids = torch.tensor(rows["input_ids"])
    assert ((labels == tokens.eot).sum() > 0) & (labels == tokens.pad).logical_not().all()
    assert (ids == tokens.pad).any(), "the last row is filled up"
    trainer = HerdSFTTrainer(
        policy, args=HerdSFTConfig(**settings, max_length=LENGTH), train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    assert math.isfinite(last_log(trainer, "loss"))
    assert last_log(trainer, "num_tokens") <= (ids != tokens.pad).sum()
    trainer.save_model(str(tmp_path / "saved"))
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert saved.apply_chat_template(DIALOG, return_dict=False) == render(tokenizer, DIALOG).ids
    ends = GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id
    assert tokens.eot in (ends if isinstance(ends, list) else [ends])


def test_dpo_reads_content_in_the_ratio_and_the_end_in_the_nll(policy, tokenizer, settings, preferences):
    tokens = ControlTokens.of(tokenizer)
    records = preferences(8)
    rows, _ = preference_rows(records, tokenizer, LENGTH, too_long="drop")
    trainer = HerdDPOTrainer(
        policy, args=HerdDPOConfig(**settings, max_length=LENGTH), train_dataset=rows, processing_class=tokenizer
    )
    batch = trainer.data_collator([dict(row) for row in rows])
    sides = [row[side] for side in ("chosen_ids", "rejected_ids") for row in rows]
    for ids, ratio, nll, side in zip(
        batch["input_ids"], batch["completion_mask"], batch["nll_mask"], sides, strict=True
    ):
        assert ids[nll.bool()].tolist() == side
        assert ids[ratio.bool()].tolist() == side[:-1]
        assert side[-1] == tokens.eot
    trainer.train()
    assert math.isfinite(last_log(trainer, "loss"))
    assert "alarms/no_content" not in trainer.state.log_history[0]


def test_a_reward_models_score_is_read_at_the_end_of_turn(published, tokenizer, settings, preferences):
    path = str(published / "reward")
    model = recipe.load_model(path, "reward", recipe.load_tokenizer(path))
    records = preferences(8)
    rows, _ = ranking_rows(records, tokenizer, LENGTH, too_long="drop")
    options = settings | {"learning_rate": 1e-4}
    trainer = HerdRewardTrainer(model, args=HerdRewardConfig(**options), train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    assert math.isfinite(last_log(trainer, "loss"))
    scorer = RewardModel(trainer.model.eval(), tokenizer)
    together = scorer.score([record.prompt for record in records], [record.chosen for record in records])
    for record, score in zip(records, together, strict=True):
        ids = render_prompt(tokenizer, record.prompt) + encode_answer(tokenizer, record.chosen)
        with torch.no_grad():
            alone = trainer.model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).logits
        assert score == pytest.approx(alone[0, 0].item(), abs=1e-4)


def test_ppo_and_sampling_stop_at_the_end_of_turn(published, policy, tokenizer, settings, prompt_rows):
    drafts = DialogSampler(policy, tokenizer)([DIALOG[:1]], SamplingParams(n=16, max_new_tokens=24, seed=1))[0]
    assert any(draft.finished for draft in drafts)
    trainer = PPOTrainer(
        policy,
        reward=lambda prompts, answers, finished, rows: {"length": [float(len(answer)) for answer in answers]},
        value_model=recipe.load_model(str(published / "reward"), "value", tokenizer),
        args=PPOConfig(**settings | {"max_completion_length": 8, "per_device_train_batch_size": 8, "beta": 0.1}),
        train_dataset=prompt_rows(16),
        processing_class=tokenizer,
    )
    trainer.train()
    assert last_log(trainer, "policy/ratio") == pytest.approx(1.0, abs=1e-5)
    assert last_log(trainer, "kl") == pytest.approx(0.0, abs=1e-4)
