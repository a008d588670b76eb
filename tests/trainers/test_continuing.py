"""Runs that are cut off: what is trained afterwards, what is left behind, and what SIGTERM does."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from llama_align import recipe
from llama_align.data import Document, demonstration_rows, document_rows, preference_rows, ranking_rows
from llama_align.trainers import (
    HerdDPOConfig,
    HerdDPOTrainer,
    HerdRewardConfig,
    HerdRewardTrainer,
    HerdSFTConfig,
    HerdSFTTrainer,
    PPOConfig,
    PPOTrainer,
    PretrainConfig,
    PretrainTrainer,
    margin_table,
)

from .conftest import words

KINDS = ("pretrain", "sft", "reward", "dpo", "ppo")


def count_a(prompts, answers, finished, rows) -> dict[str, list[float]]:
    return {"letters": [answer.count("a") / max(1, len(answer)) for answer in answers]}


@pytest.fixture
def trainer_of(checkpoint, causal_path, tokenizer, settings, preferences, demonstrations, prompt_rows):
    critic = checkpoint("reward", seed=1)

    def make(kind: str, **changes):
        import random

        draw = random.Random(0)
        torch.manual_seed(0)
        parts = {
            "pretrain": lambda: (
                PretrainTrainer,
                PretrainConfig,
                document_rows([Document(words(draw, 25)) for _ in range(60)], tokenizer, 64).select(range(12)),
            ),
            "sft": lambda: (
                HerdSFTTrainer,
                HerdSFTConfig,
                demonstration_rows(demonstrations(200), tokenizer, 160)[0].select(range(12)),
            ),
            "dpo": lambda: (HerdDPOTrainer, HerdDPOConfig, preference_rows(preferences(12), tokenizer, 160)[0]),
            "reward": lambda: (
                HerdRewardTrainer,
                HerdRewardConfig,
                ranking_rows(preferences(12), tokenizer, 160, margin_table("small"))[0],
            ),
            "ppo": lambda: (PPOTrainer, PPOConfig, prompt_rows(12)),
        }
        trainer, config, rows = parts[kind]()
        options = settings | {"per_device_train_batch_size": 4} | changes
        options |= {"max_length": 160} if kind in ("sft", "dpo") else {}
        extra = {}
        if kind == "ppo":
            options |= {"max_completion_length": 6, "num_iterations": 2}
            extra = {"reward": count_a, "value_model": recipe.load_model(critic, "value")}
        path = critic if kind == "reward" else causal_path
        model = recipe.load_model(path, "reward" if kind == "reward" else "causal")
        args = config(**options)
        return trainer(model, args=args, train_dataset=rows, processing_class=tokenizer, **extra)

    return make


def run(trainer) -> None:
    recipe.train(trainer)
    recipe.finish(trainer, {"alarms": getattr(trainer, "alarms", {})})


def files_of(folder: Path) -> dict[str, bytes]:
    """All that is not a checkpoint."""
    names = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    return {str(name): (folder / name).read_bytes() for name in names if "checkpoint-" not in name.parts[0]}


def counted(training_step, trained: list[int]):
    def step(*args, **kwargs):
        trained[-1] += 1
        return training_step(*args, **kwargs)

    return step


# the last checkpoint within an epoch and at the end of one; logs between checkpoints; evaluation behind the last step
SAVING = {
    "steps": {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3},
    "epochs": {"max_steps": -1, "num_train_epochs": 2, "save_strategy": "epoch", "logging_steps": 4},
    "boundary": {"max_steps": -1, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2},
}


@pytest.mark.parametrize("saving", SAVING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_killed_behind_any_checkpoint_ends_in_the_files_of_an_undisturbed_one(
    trainer_of, tmp_path, kind, saving, monkeypatch
):
    out = tmp_path / "out"
    options = SAVING[saving] | {"output_dir": str(out), "lr_scheduler_type": "linear", "lr_scheduler_kwargs": None}
    run(trainer_of(kind, **options))
    whole = files_of(out)
    assert {"model.safetensors", "log.jsonl", "metrics.json", "training_args.bin"} <= set(whole)
    shutil.move(out, tmp_path / "whole")
    steps = sorted(int(path.name[11:]) for path in (tmp_path / "whole").glob("checkpoint-*"))
    assert len(steps) >= 2
    trained = []
    for step in steps[-2:]:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", out / f"checkpoint-{step}")
        trainer = trainer_of(kind, **options, resume_from_checkpoint="last")
        trained.append(0)
        monkeypatch.setattr(trainer, "training_step", counted(trainer.training_step, trained))
        run(trainer)
        found = files_of(out)
        assert set(found) == set(whole)
        assert [name for name in whole if found[name] != whole[name]] == [], f"from step {step}"
    assert trained == [steps[-1] - steps[-2], 0], "behind the last checkpoint nothing is trained"


def test_an_evaluation_at_the_end_of_an_epoch_is_in_its_checkpoint(trainer_of, tmp_path):
    trainer = trainer_of("pretrain", max_steps=3, save_strategy="steps", save_steps=3, output_dir=str(tmp_path))
    trainer.eval_dataset, trainer.args.eval_strategy = trainer.train_dataset, IntervalStrategy.EPOCH
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert [row["step"] for row in state["log_history"] if "eval_loss" in row] == [3]


class Terminates(TrainerCallback):
    """Sends SIGTERM while a step is at work."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("kind", ["sft", "ppo"])
def test_a_run_stopped_by_sigterm_is_not_finished_and_goes_on(trainer_of, tmp_path, kind):
    out, before = tmp_path / "out", signal.getsignal(signal.SIGTERM)
    options = {"max_steps": 5, "output_dir": str(out), "enable_jit_checkpoint": True}
    run(trainer_of(kind, **options))
    whole = files_of(out)
    shutil.rmtree(out)
    trainer = trainer_of(kind, **options)
    trainer.add_callback(Terminates(2))
    with pytest.raises(recipe.StoppedEarly, match="stopped early at step 3 of 5"):
        run(trainer)
    assert signal.getsignal(signal.SIGTERM) == before
    assert json.loads((out / recipe.STOPPED).read_text()) == {"step": 3, "max_steps": 5}
    assert not {"metrics.json", "model.safetensors", "log.jsonl"} & set(files_of(out))
    run(trainer_of(kind, **options, resume_from_checkpoint="last"))
    found = files_of(out)
    assert [name for name in whole | found if found.get(name) != whole.get(name)] == []


def test_a_full_disk_is_named_with_the_checkpoint(trainer_of, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/0")

    trainer = trainer_of("sft", save_strategy="steps", save_steps=1, output_dir=str(tmp_path))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=rf"{tmp_path}/checkpoint-1.*could not be written.*PytorchStreamWriter"):
        trainer.train()


def test_a_checkpoint_beyond_the_steps_asked_for_is_not_taken_for_their_result(trainer_of, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / "out")}
    run(trainer_of("pretrain", **options | {"max_steps": 4}))
    with pytest.raises(recipe.RecipeError, match=r"found .*checkpoint-4 of step 4, expected one of at most 2 steps"):
        run(trainer_of("pretrain", **options | {"max_steps": 2, "resume_from_checkpoint": "last"}))
