import random

import pytest
import torch
from datasets import Dataset

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, LlamaHerdForTokenClassification

HEADS = {
    "causal": LlamaHerdForCausalLM,
    "reward": LlamaHerdForSequenceClassification,
    "value": LlamaHerdForTokenClassification,
}
WORDS = ["bado", "kilu", "mete", "nora", "sivu", "zoqui", "12", "2024,", "<|eot_id|>", "東京", "\n"]


def words(draw: random.Random, most: int = 6) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most))).strip() or "bado"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tiny_config):
    """Writes a tiny model with its random weights and returns its path; equal arguments give equal weights."""

    def make(kind: str = "causal", seed: int = 0, **changes) -> str:
        folder = tmp_path_factory.mktemp(f"{kind}{seed}")
        torch.manual_seed(seed)
        extra = {} if kind == "causal" else {"num_labels": 1}
        HEADS[kind](tiny_config(**extra | changes)).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="session")
def causal_path(checkpoint) -> str:
    return checkpoint()


@pytest.fixture(scope="session")
def preferences():
    """Preference records with random dialogs, grades and objectives."""
    from llama_align.data import GRADES, Preference

    def make(count: int, seed: int = 0) -> list:
        draw = random.Random(seed)
        records = []
        for number in range(count):
            dialog = [{"role": "system", "content": words(draw)}] * (draw.random() < 0.3)
            if draw.random() < 0.3:
                dialog += [{"role": "user", "content": words(draw)}, {"role": "assistant", "content": words(draw)}]
            dialog = [*dialog, {"role": "user", "content": words(draw)}]
            grade = GRADES[number % 4]
            records.append(Preference(dialog, words(draw), words(draw) + " ki", grade, "helpfulness"))
        return records

    return make


@pytest.fixture(scope="session")
def demonstrations():
    from llama_align.data import Demonstration

    def make(count: int, seed: int = 0) -> list:
        draw = random.Random(seed)
        return [
            Demonstration([{"role": "user", "content": words(draw)}, {"role": "assistant", "content": words(draw)}])
            for _ in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def prompt_rows():
    def make(count: int, seed: int = 0) -> Dataset:
        draw = random.Random(seed)
        return Dataset.from_list(
            [{"prompt": [{"role": "user", "content": words(draw)}], "objective": "helpfulness"} for _ in range(count)]
        )

    return make


@pytest.fixture
def settings(tmp_path):
    """Training arguments that every trainer shares here: plain SGD-like AdamW steps on the processor, no extras."""
    return {
        "output_dir": str(tmp_path / "out"),
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 1,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
