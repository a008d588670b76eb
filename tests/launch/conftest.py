"""Recipes run through `accelerate launch`, once per session for every combination a test asks for."""

import json
import os
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification
from llama_align.chat import train_tokenizer
from llama_align.models import preset

from .warm import LAUNCHER

PROJECT = Path(__file__).parents[2]
CONFIGS = PROJECT / "accelerate_configs"
WORDS = ("river", "stone", "bread", "lamp", "tower", "seven", "quiet", "green", "walks", "under", "holds", "near")
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
STEPS, SAVED = 6, 3
# rows of a global batch; a process's share of them follows from the number of processes
BATCH = 8
COMMON = {
    "max_steps": STEPS,
    "logging_steps": 1,
    "save_steps": SAVED,
    "learning_rate": 1.0e-2,
    "warmup_steps": 2,
    "gradient_accumulation_steps": 2,
    "report_to": "none",
    "disable_tqdm": True,
}


def write_data(root: Path) -> None:
    rng = random.Random(0)

    def text(shortest: int, longest: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(shortest, longest)))

    def user() -> list[dict]:
        return [{"role": "user", "content": text(2, 9)}]

    records = {
        "documents": [{"text": text(5, 40)} for _ in range(200)],
        "demonstrations": [
            {"messages": [*user(), {"role": "assistant", "content": text(1, 30)}]} for _ in range(STEPS * BATCH * 4)
        ],
        "preferences": [
            {
                "prompt": user(),
                "chosen": text(1, 20),
                "rejected": text(1, 20),
                "grade": rng.choice(("significantly_better", "better")),
                "objective": "helpfulness",
            }
            for _ in range(STEPS * BATCH)
        ],
        "prompts": [{"messages": user(), "objective": rng.choice(("helpfulness", "safety"))} for _ in range(40)],
    }
    for name, rows in records.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Path:
    """Data, a tokenizer and a model of two layers with random weights."""
    return make_workshop(tmp_path_factory.mktemp("launch"))


def make_workshop(root: Path) -> Path:
    write_data(root)
    lines = (root / "documents.jsonl").read_text().splitlines()
    tokenizer = train_tokenizer([json.loads(line)["text"] for line in lines], 300)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    model = LlamaHerdForCausalLM(preset("herd-nano", vocab_size=len(tokenizer), **ids, **SHAPE))
    model.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    for name in ("helpfulness", "safety"):
        config = preset("herd-nano", vocab_size=len(tokenizer), num_labels=1, **ids, **SHAPE)
        LlamaHerdForSequenceClassification(config).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


def environment() -> dict:
    # models of this size only wait for a second thread
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def stages(root: Path) -> dict[str, dict]:
    base = str(root / "base")

    def data(name: str) -> list[dict]:
        return [{"path": str(root / f"{name}.jsonl")}]

    return {
        "pretrain": {
            "tokenizer": base,
            "model_name_or_path": base,
            "datasets": data("documents"),
            "context": 64,
            "eval_datasets": data("documents"),
        },
        "sft": {"model_name_or_path": base, "datasets": data("demonstrations"), "max_length": 256},
        "reward": {"model_name_or_path": base, "datasets": data("preferences"), "eval_datasets": data("preferences")},
        "dpo": {"model_name_or_path": base, "datasets": data("preferences"), "max_length": 256},
        "ppo": {
            "model_name_or_path": base,
            "datasets": data("prompts"),
            "reward_models": {name: str(root / name) for name in ("helpfulness", "safety")},
            "max_completion_length": 12,
            "beta": 0.1,
            # every other checkpoint stands in the middle of a rollout
            "num_iterations": 2,
            "learning_rate": 1.0e-3,
            "value_learning_rate": 3.0e-3,
        },
    }


@pytest.fixture(scope="session")
def launch(workshop, warm):
    """`launch(recipe, config, **options)` -> what `recipes/<recipe>.py` left under `accelerate_configs/<config>.yaml`.

    Every run sees the same global batches. `fsdp2` and `precision="bf16"` run as on GPUs (as_on_gpus.py). `continues`
    names a finished run whose first checkpoint is copied first.
    """
    finished = {}

    def run(recipe, config, continues: SimpleNamespace | None = None, precision="no", **options) -> SimpleNamespace:
        key = json.dumps([recipe, config, continues and str(continues.path), precision, options], sort_keys=True)
        if key not in finished:
            finished[key] = start(recipe, config, workshop / f"run-{len(finished)}", continues, precision, options)
        return finished[key]

    def start(recipe, config, output, continues, precision, options):
        settings = stages(workshop)[recipe] | COMMON | options
        processes = 1 if config == "cpu_single" else 2
        share = BATCH // processes // settings["gradient_accumulation_steps"]
        settings |= {"output_dir": str(output), "per_device_train_batch_size": share}
        if continues:
            shutil.copytree(continues.path / f"checkpoint-{SAVED}", output / f"checkpoint-{SAVED}")
            settings["resume_from_checkpoint"] = "last"
        (workshop / f"{output.name}.yaml").write_text(yaml.safe_dump(settings))
        command = [*LAUNCHER, "--config_file", CONFIGS / f"{config}.yaml"]
        command += ["--main_process_port", "0", "--num_processes", "2"] if processes > 1 else []
        command += ["--mixed_precision", precision]
        command += [Path(__file__).with_name("as_on_gpus.py")] if config == "fsdp2" or precision != "no" else []
        command += [PROJECT / "recipes" / f"{recipe}.py", "--config", workshop / f"{output.name}.yaml"]
        # one run of every config in interpreters of its own; what `launch` continues from them has to fit bit by bit
        fresh = recipe == "pretrain" and precision == "no" and not options and not continues
        done = warm.run(command, environment(), workshop, fresh=fresh)
        assert done.returncode == 0, (
            f"{recipe} under {config}.yaml ended with {done.returncode}:\n{done.stderr[-6000:]}"
        )
        assert "terminate called" not in done.stderr
        return read(output, done.stderr)

    return run


def read(output: Path, stderr: str) -> SimpleNamespace:
    rows = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return SimpleNamespace(
        path=output,
        rows=[row for row in rows if "loss" in row],
        weights=load_file(next(output.glob("*model.safetensors"))),  # an adapter's, with LoRA
        metrics=json.loads((output / "metrics.json").read_text()),
        stderr=stderr,
    )
