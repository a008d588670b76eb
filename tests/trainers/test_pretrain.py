"""Pretraining: the loss of packed documents, the cut of a batch, and a resumed run."""

import random

import pytest
import torch
import torch.nn.functional as F

from llama_align import recipe
from llama_align.data import Document, document_rows
from llama_align.trainers import PretrainConfig, PretrainTrainer


@pytest.fixture
def trainer_of(causal_path, tokenizer, settings):
    def make(strategy: str = "bfd", **changes) -> PretrainTrainer:
        draw = random.Random(0)
        texts = [" ".join(draw.choices(["bado", "kilu", "nora", "42"], k=draw.randint(1, 25))) for _ in range(40)]
        rows = document_rows([Document(text) for text in texts], tokenizer, 64, strategy).select(range(8))
        return PretrainTrainer(
            recipe.load_model(causal_path),
            args=PretrainConfig(**settings | {"warmup_steps": 0} | changes),
            train_dataset=rows,
        )

    return make


@pytest.mark.parametrize("strategy", ["bfd", "concat"])
def test_the_loss_is_the_mean_over_tokens_of_documents_read_alone(trainer_of, causal_path, strategy):
    trainer = trainer_of(strategy)
    rows = list(trainer.train_dataset)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    model, total, count = recipe.load_model(causal_path).eval(), 0.0, 0
    for row in rows:
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True):
            ids, labels = torch.tensor(row["input_ids"][start:end]), torch.tensor(row["labels"][start:end])
            assert labels[0] == -100
            with torch.no_grad():
                logits = model(ids[None]).logits[0, :-1]
            total += F.cross_entropy(logits, labels[1:], reduction="sum").item()
            count += int((labels != -100).sum())
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_a_batch_cut_into_eight_gives_the_same_weights(trainer_of):
    weights = []
    for rows, steps in ((8, 1), (1, 8)):
        trainer = trainer_of(per_device_train_batch_size=rows, gradient_accumulation_steps=steps, optim="sgd")
        counts = {sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset}
        assert len(counts) > 1
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert any((weights[0][name] - before[name]).abs().max() > 1e-4 for name in before)
    assert all((tensor - weights[1][name]).abs().max() < 1e-6 for name, tensor in weights[0].items())


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, trainer_of, stop):
    options = {"max_steps": 5, "per_device_train_batch_size": 3, "save_strategy": "steps", "save_steps": 1}
    options |= {"lr_scheduler_type": "cosine_with_min_lr", "warmup_steps": 2}
    whole = trainer_of(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = trainer_of(output_dir=str(tmp_path / "resumed"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
    found = resumed.model.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in whole.model.state_dict().items())
    assert not torch.equal(found["lm_head.weight"], trainer_of().model.state_dict()["lm_head.weight"])


def test_the_z_loss_is_that_of_the_model_in_training_alone(trainer_of):
    trainer, plain = trainer_of(z_loss=0.01), trainer_of()
    batch = trainer.data_collator(list(trainer.train_dataset))
    logits = plain.model.eval()(**{k: v for k, v in batch.items() if k != "labels"}).logits[:, :-1].float()
    log_z = logits.logsumexp(-1)[batch["labels"][:, 1:] != -100]
    losses = [t.compute_loss(t.model.train(), dict(batch)).item() for t in (trainer, plain)]
    assert losses[0] - losses[1] == pytest.approx(0.01 * log_z.pow(2).mean().item(), rel=1e-4)
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] == pytest.approx(losses[1], rel=1e-4)
