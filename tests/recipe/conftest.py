"""Recipes run in this process on tiny checkpoints: a base, adapters on it, the same weights merged by PEFT alone."""

import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align import recipe
from llama_align.data import GRADES, write_jsonl
from llama_align.runtime.replacing import replaced

RECIPES = Path(__file__).parents[2] / "recipes"
WORDS = ["bado", "kilu", "mete", "nora", "sivu", "zoqui", "12", "東京"]


@pytest.fixture(scope="session")
def run_recipe(tmp_path_factory):
    """Runs a recipe's `main` with these options and returns what it logged; `output_dir` is made up if absent."""

    def run(script: str, **options) -> Path:
        handed = []
        spec = importlib.util.spec_from_file_location("__main__", RECIPES / f"{script}.py")
        with replaced(recipe, "run", lambda main, *types, doc=None: handed.append((main, types))):
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        main, types = handed[0]
        folder = tmp_path_factory.mktemp(script)
        options = {"output_dir": str(folder / "out")} | options
        (folder / "options.yaml").write_text(yaml.safe_dump(options))
        main(*recipe.parse(types, ["--config", str(folder / "options.yaml")]))
        return Path(options["output_dir"])

    return run


@pytest.fixture(scope="session")
def logged():
    """What a run logged at each step, and what its files end with."""

    def read(folder: Path) -> list[dict]:
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    return read


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, list[dict]]:
    """Sources by kind of record."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)

    def words() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, 6)))

    def user() -> dict:
        return {"role": "user", "content": words()}

    rows = {
        "demonstration": [{"messages": [user(), {"role": "assistant", "content": words()}]} for _ in range(40)],
        "preference": [
            {"prompt": [user()], "chosen": words(), "rejected": words() + " ki", "grade": GRADES[i % 2]}
            | {"objective": "helpfulness"}
            for i in range(16)
        ],
        "prompt": [{"messages": [user()], "objective": "helpfulness"} for _ in range(6)],
        "document": [{"text": " ".join(words() for _ in range(12))} for _ in range(30)],
    }
    for kind, found in rows.items():
        write_jsonl(folder / f"{kind}.jsonl", found)
    return {kind: [{"path": str(folder / f"{kind}.jsonl")}] for kind in rows}


@pytest.fixture(scope="session")
def family(tmp_path_factory, tiny_config, tokenizer) -> dict[str, str]:
    """Paths: base, adapter (a policy), whole (the same, merged); reward_adapter and reward_whole, with a score head."""
    folder = tmp_path_factory.mktemp("family")
    paths = {name: str(folder / name) for name in ("base", "adapter", "whole", "reward_adapter", "reward_whole")}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(paths["base"])
    for prefix, auto, task in (
        ("", AutoModelForCausalLM, "CAUSAL_LM"),
        ("reward_", AutoModelForSequenceClassification, "SEQ_CLS"),
    ):
        extra = {"num_labels": 1} if prefix else {}
        model = auto.from_pretrained(paths["base"], **extra)
        saved = ["score"] if prefix else None
        config = LoraConfig(task_type=task, r=3, target_modules="all-linear", modules_to_save=saved)
        model = get_peft_model(model, config)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name or "modules_to_save" in name:
                    weight.normal_(std=0.1)
        model.save_pretrained(paths[f"{prefix}adapter"])
        model.merge_and_unload().save_pretrained(paths[f"{prefix}whole"])
    for path in paths.values():
        tokenizer.save_pretrained(path)
    return paths


@pytest.fixture(scope="session")
def half_family(tmp_path_factory, family, tokenizer) -> dict[str, str]:
    """A policy (`whole`), another (`other`), a reward model (`reward_whole`) and an adapter (`adapter`) in bfloat16."""
    folder = tmp_path_factory.mktemp("half")
    paths = {name: str(folder / name) for name in ("base", "whole", "other", "reward_whole", "adapter")}
    for name, source in (("base", "base"), ("whole", "whole"), ("other", "base"), ("reward_whole", "reward_whole")):
        auto = AutoModelForSequenceClassification if name == "reward_whole" else AutoModelForCausalLM
        auto.from_pretrained(family[source], dtype=torch.bfloat16).save_pretrained(paths[name])
    adapter = Path(paths["adapter"])
    adapter.mkdir()
    for file in Path(family["adapter"]).iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": paths["base"]}))
    for path in paths.values():
        tokenizer.save_pretrained(path)
    return paths


@pytest.fixture(scope="session")
def stage(data, family) -> dict[str, dict]:
    """Options of short runs of every training recipe, without the checkpoint they start from."""
    training = {
        **{"bf16": False, "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True},
        **{"gradient_checkpointing": False, "learning_rate": 0.01, "lr_scheduler_type": "constant", "max_steps": 2},
        **{"dataloader_pin_memory": False, "warmup_steps": 0, "per_device_train_batch_size": 4},
    }
    return {
        "pretrain": training | {"datasets": data["document"], "context": 64, "tokenizer": family["base"]},
        "sft": training | {"datasets": data["demonstration"], "max_length": 160},
        "reward": training | {"datasets": data["preference"], "context": 160},
        "dpo": training | {"datasets": data["preference"], "max_length": 160},
        "ppo": training
        | {"datasets": data["prompt"], "max_completion_length": 6, "learning_rate": 0.001}
        | {"reward_models": {"helpfulness": family["reward_whole"]}},
    }
