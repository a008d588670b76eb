"""Tokens per second and utilisation: tokens, FLOPs and seconds counted apart, and nothing else of a run touched."""

import time
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llama_align import LlamaHerdForCausalLM, recipe
from llama_align.data import Document, demonstration_rows, document_rows
from llama_align.runtime.peak import SETTING
from llama_align.sizes.cost import flops
from llama_align.trainers import HerdSFTConfig, HerdSFTTrainer, PretrainConfig, PretrainTrainer, throughput

PEAK = 1e9


class Watch:
    """A clock that only moves when told to."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch):
    found = Watch()
    monkeypatch.setattr(throughput, "time", found)
    return found


@pytest.fixture
def pretrain(causal_path, tokenizer, settings):
    def make(model=None, rows=None, **changes) -> PretrainTrainer:
        texts = ["bado kilu nora " * (1 + number % 5) for number in range(60)]
        rows = rows or document_rows([Document(text) for text in texts], tokenizer, 64, "bfd").select(range(12))
        options = settings | {"warmup_steps": 0, "per_device_train_batch_size": 2, "peak_flops": PEAK} | changes
        return PretrainTrainer(
            model or recipe.load_model(causal_path), args=PretrainConfig(**options), train_dataset=rows
        )

    return make


@pytest.fixture
def sft(causal_path, tokenizer, settings, demonstrations):
    def make(**changes) -> HerdSFTTrainer:
        rows, _ = demonstration_rows(demonstrations(90), tokenizer, 128)
        options = settings | {"max_length": 128, "per_device_train_batch_size": 2, "peak_flops": PEAK} | changes
        return HerdSFTTrainer(
            recipe.load_model(causal_path),
            args=HerdSFTConfig(**options),
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return make


def training_rows(trainer) -> list[dict]:
    return [row for row in trainer.state.log_history if "loss" in row]


def takes(trainer, watch: Watch, **seconds: float) -> list[dict]:
    """Lets each named method take that long; returns the batches of training."""
    batches = []
    for name, duration in seconds.items():
        inner = getattr(trainer, name)

        def slow(*args, inner=inner, name=name, duration=duration, **kwargs):
            watch.now += duration
            if name == "compute_loss":
                batches.append({key: args[1][key].clone() for key in ("input_ids", "labels")})
            return inner(*args, **kwargs)

        setattr(trainer, name, slow)
    return batches


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_tokens_and_flops_of_the_interval_over_its_seconds(stage, request, watch):
    trainer = request.getfixturevalue(stage)(max_steps=4, logging_steps=2, gradient_accumulation_steps=2)
    batches = takes(trainer, watch, compute_loss=0.25)
    trainer.train()
    rows, config = training_rows(trainer), trainer.model.config
    assert len(rows) == 2
    assert len(batches) == 8
    for row, some in zip(rows, (batches[:4], batches[4:]), strict=True):
        tokens = sum(int((batch["input_ids"] != config.pad_token_id).sum()) for batch in some)
        labelled = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in some)
        assert row["tokens_per_second"] == pytest.approx(tokens / 1.0)
        length = some[0]["input_ids"].shape[1]
        wanted = flops(config, [length], labelled=0, square=True).training * tokens / length
        wanted += flops(config, [0], labelled=labelled).training
        assert row["mfu"] == pytest.approx(wanted / PEAK)


def test_there_is_padding_and_there_are_tokens_without_a_label(pretrain, sft):
    for trainer in (pretrain(), sft()):
        pad, kinds = trainer.model.config.pad_token_id, set()
        for row in trainer.train_dataset:
            pairs = zip(row["input_ids"], row["labels"], strict=True)
            kinds |= {(token == pad, label == -100) for token, label in pairs}
        assert kinds == {(True, True), (False, True), (False, False)}


def test_fetching_batches_counts_and_evaluation_and_saving_do_not(pretrain, watch):
    trainer = pretrain(max_steps=6, logging_steps=2, save_strategy="steps", save_steps=2)
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 1
    trainer.eval_dataset = trainer.train_dataset.select(range(2))
    slow = {"training_step": 1.0, "get_batch_samples": 0.5, "evaluation_loop": 50.0, "_save_checkpoint": 90.0}
    batches = takes(trainer, watch, compute_loss=0.0, **slow)
    trainer.train()
    rows, pad = training_rows(trainer), trainer.model.config.pad_token_id
    tokens = [int(batch["input_ids"].ne(pad).sum()) for batch in batches]
    seconds = [sum(tokens[2 * i : 2 * i + 2]) / row["tokens_per_second"] for i, row in enumerate(rows)]
    # the clock starts with the first step, after its batch was fetched
    assert seconds == pytest.approx([2.5, 3.0, 3.0])
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert len(evaluations) == 6
    assert not [row for row in evaluations if "mfu" in row]


def test_other_models_and_frozen_weights_log_no_utilisation(pretrain, tiny_config):
    fields = {key: value for key, value in tiny_config().to_dict().items() if key != "model_type"}
    frozen = pretrain()
    frozen.model.model.embed_tokens.weight.requires_grad_(False)
    for trainer in (pretrain(LlamaForCausalLM(LlamaConfig(**fields))), frozen):
        trainer.train()
        assert training_rows(trainer)[0]["tokens_per_second"] > 0
        assert "mfu" not in training_rows(trainer)[0]


def test_several_processes_add_up_their_tokens_and_their_peaks(tiny_config, watch):
    model, rows = LlamaHerdForCausalLM(tiny_config()), torch.arange(40).view(4, 10) + 5
    found = []
    for processes in (1, 2):
        # every process counts as many
        reduce = SimpleNamespace(reduce=lambda seen, _, n=processes: seen * n, device=rows.device, mixed_precision="no")
        counter = throughput.Throughput(reduce)
        args = SimpleNamespace(world_size=processes, n_gpu=0, peak_flops=PEAK)
        counter.on_train_begin(args, None, None, model=model)
        counter.on_step_begin(args, None, None)
        counter.count({"input_ids": rows, "labels": rows})
        watch.now += 2.0
        found.append(counter.measured())
    assert found[0]["tokens_per_second"] == 20
    assert found[1]["tokens_per_second"] == 40
    assert found[0]["mfu"] == found[1]["mfu"] > 0


def test_an_unknown_device_is_said_once_and_logs_no_utilisation(pretrain, monkeypatch, caplog):
    monkeypatch.setattr(throughput, "peak_flops", lambda *_: None)
    trainer = pretrain()
    with caplog.at_level("WARNING", logger="llama_align.trainers.throughput"):
        trainer.train()
    assert [record.message for record in caplog.records] == [
        f"no peak FLOP/s known for this device, so mfu is not logged; set {SETTING} or peak_flops"
    ]
    assert "mfu" not in training_rows(trainer)[0]


def test_on_a_processor_the_peak_is_measured(pretrain, monkeypatch):
    monkeypatch.delenv(SETTING, raising=False)
    trainer = pretrain(peak_flops=None, max_steps=3)
    trainer.train()
    assert all(0 < row["mfu"] < 2 for row in training_rows(trainer))


@pytest.mark.parametrize("stage", ["pretrain", "sft"])
def test_a_resumed_run_counts_its_own_steps_and_ends_with_the_same_weights(stage, request, tmp_path, watch):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make = request.getfixturevalue(stage)
    whole, resumed = (make(output_dir=str(tmp_path / name), **options) for name in ("whole", "resumed"))
    takes(whole, watch, training_step=1.0)
    whole.train()
    takes(resumed, watch, training_step=1.0)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    found = resumed.model.state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in whole.model.state_dict().items())
    for name in ("step", "loss", "tokens_per_second", "mfu"):
        assert [row[name] for row in training_rows(resumed)] == [row[name] for row in training_rows(whole)]


def test_counting_changes_no_weight_and_no_random_number(pretrain, monkeypatch):
    weights, states = [], []
    for counts in (True, False):
        trainer = pretrain(max_steps=3, peak_flops=None)
        if not counts:
            monkeypatch.setattr(trainer._throughput, "on_train_begin", lambda *_, **__: None)
            monkeypatch.setattr(trainer._throughput, "count", lambda inputs: None)
        trainer.train()
        weights.append(trainer.model.state_dict())
        states.append(torch.get_rng_state())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert torch.equal(*states)


def test_a_real_clock_gives_the_real_rate(pretrain):
    trainer = pretrain(max_steps=4, logging_steps=4)
    inner = trainer.training_step

    def slow(*args, **kwargs):
        time.sleep(0.1)
        return inner(*args, **kwargs)

    trainer.training_step = slow
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    row = training_rows(trainer)[0]
    tokens = sum(
        int((batch["input_ids"] != trainer.model.config.pad_token_id).sum())
        for batch, _ in zip(trainer.get_train_dataloader(), range(4), strict=False)
    )
    assert 0.5 * tokens / seconds < row["tokens_per_second"] < 3 * tokens / 0.4
