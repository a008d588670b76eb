"""SFT: the loss is a plain mean over labelled tokens, and one step does not depend on how a batch is cut."""

import pytest
import torch
import torch.nn.functional as F

from llama_align import recipe
from llama_align.chat import render
from llama_align.data import demonstration_rows
from llama_align.trainers import HerdSFTConfig, HerdSFTTrainer


@pytest.fixture
def trainer_of(causal_path, tokenizer, settings, demonstrations):
    def make(count: int = 40, **changes) -> HerdSFTTrainer:
        rows, dropped = demonstration_rows(demonstrations(count), tokenizer, 128)
        assert dropped == 0
        return HerdSFTTrainer(
            recipe.load_model(causal_path),
            args=HerdSFTConfig(**settings | {"max_length": 128} | changes),
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return make


def test_the_loss_is_the_mean_over_tokens_the_assistant_says(trainer_of, causal_path, tokenizer, demonstrations):
    trainer = trainer_of(12)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    loss = trainer.compute_loss(trainer.model, batch).item()
    model, total, count = recipe.load_model(causal_path).eval(), 0.0, 0
    for record in demonstrations(12):  # each dialog alone, without padding or packing
        some = render(tokenizer, record.messages)
        with torch.no_grad():
            logits = model(torch.tensor([some.ids])).logits[0, :-1]
        labels = torch.tensor(some.labels[1:])
        total += F.cross_entropy(logits, labels, reduction="sum").item()
        count += int((labels != -100).sum())
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_a_row_in_eight_steps_or_eight_rows_in_one_give_the_same_weights(trainer_of):
    weights = []
    for size, steps in ((8, 1), (1, 8), (2, 4)):
        trainer = trainer_of(
            45, per_device_train_batch_size=size, gradient_accumulation_steps=steps, optim="sgd", max_grad_norm=1.0
        )
        assert len(trainer.train_dataset) >= 8
        trainer.train_dataset = trainer.train_dataset.select(range(8))
        counts = {sum(label != -100 for label in row["labels"]) for row in trainer.train_dataset}
        assert len(counts) > 1  # a mean of means would differ
        trainer.train()
        weights.append(trainer.model.state_dict())
    start = trainer_of().model.state_dict()
    assert any((weights[0][name] - start[name]).abs().max() > 1e-4 for name in start)
    for other in weights[1:]:
        for name, tensor in weights[0].items():
            assert (tensor - other[name]).abs().max() < 1e-6, name


def test_accuracy_and_entropy_are_those_of_the_labelled_tokens(trainer_of):
    trainer = trainer_of(10, per_device_train_batch_size=16, learning_rate=0.0)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    trainer.train()
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    kept = labels != -100
    logged = trainer.state.log_history[0]
    assert logged["mean_token_accuracy"] == pytest.approx((logits.argmax(-1) == labels)[kept].float().mean().item())
    entropy = torch.distributions.Categorical(logits=logits[kept]).entropy().mean().item()
    assert logged["entropy"] == pytest.approx(entropy, rel=1e-4)


def test_training_teaches_the_answers(trainer_of):
    trainer = trainer_of(8, max_steps=30, per_device_train_batch_size=8, learning_rate=1e-2)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("strategy", ["bfd", "concat"])
def test_no_dialog_of_a_row_sees_another(causal_path, tokenizer, demonstrations, strategy):
    rows = list(demonstration_rows(demonstrations(30), tokenizer, 96, strategy)[0])
    model = recipe.load_model(causal_path).eval()
    row = next(row for row in rows if row["position_ids"].count(0) > 2)
    ids, positions = torch.tensor([row["input_ids"]]), torch.tensor([row["position_ids"]])
    starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
    with torch.no_grad():
        before = model(input_ids=ids, position_ids=positions).logits
        changed = ids.clone()
        changed[:, starts[1] : starts[2]] = (changed[:, starts[1] : starts[2]] + 1) % model.config.vocab_size
        after = model(input_ids=changed, position_ids=positions).logits
    torch.testing.assert_close(before[:, : starts[1]], after[:, : starts[1]])
    torch.testing.assert_close(before[:, starts[2] :], after[:, starts[2] :])
    assert (before[:, starts[1] : starts[2]] - after[:, starts[1] : starts[2]]).abs().max() > 0.1


def test_llama_2_fills_rows_end_to_end_and_llama_3_keeps_dialogs_whole(tokenizer, demonstrations):
    rendered = [render(tokenizer, record.messages) for record in demonstrations(30)]
    stream = [token for some in rendered for token in some.ids]
    rows = {name: list(demonstration_rows(demonstrations(30), tokenizer, 96, name)[0]) for name in ("concat", "bfd")}
    assert [token for row in rows["concat"] for token in row["input_ids"]][: len(stream)] == stream
    assert all(tokenizer.pad_token_id not in row["input_ids"] for row in rows["concat"][:-1])
    assert len(rows["concat"]) == -(-len(stream) // 96) <= len(rows["bfd"])
    begins = {
        name: sum(row["input_ids"].count(tokenizer.bos_token_id) for row in found) for name, found in rows.items()
    }
    assert begins == {"concat": 30, "bfd": 30}
    # a dialog is in one row: every piece that starts is a beginning of text, padding aside
    for row in rows["bfd"]:
        starts = [token for token, p in zip(row["input_ids"], row["position_ids"], strict=True) if p == 0]
        assert set(starts) <= {tokenizer.bos_token_id, tokenizer.pad_token_id}
    # labels are the same tokens, but for those at which a cut dialog starts anew
    learned = [sum(label != -100 for row in rows[name] for label in row["labels"]) for name in ("concat", "bfd")]
    whole = sum(label != -100 for some in rendered for label in some.labels)
    assert learned[1] == whole
    assert whole - len(rows["concat"]) <= learned[0] <= whole


def test_tokens_of_every_process_count_in_the_last_batch(trainer_of, tokenizer, monkeypatch):
    """`gather_for_metrics` cuts what it takes for copies of rows: numbers, one a process, go another way."""
    trainer = trainer_of(12)
    batch = trainer.data_collator(list(trainer.train_dataset))
    monkeypatch.setattr(trainer.accelerator, "gather_for_metrics", lambda number: number.reshape(-1)[:0])
    monkeypatch.setattr(trainer.accelerator, "reduce", lambda number, how: 2 * number)  # of two processes
    trainer.compute_loss(trainer.model.train(), batch)
    assert trainer._metrics["train"]["num_tokens"] == [2 * int((batch["input_ids"] != tokenizer.pad_token_id).sum())]
