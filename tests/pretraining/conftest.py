import json
import random

import pyarrow as pa
import pytest

from llama_align.pretraining import Source, Tokens

# of every run here: float32, on the processor, silent, every step saved
PLAIN = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "save_strategy": "steps",
    "save_steps": 1,
    "per_device_train_batch_size": 4,
}


@pytest.fixture
def documents(tmp_path):
    """`documents(name, count, seed)` -> a file of documents of one to sixty words."""

    def make(name: str, count: int = 60, seed: int = 0) -> str:
        draw = random.Random(f"{name}{seed}")
        words = ["bado", "kilu", "nora", "42", "東京", name]
        texts = [" ".join(draw.choices(words, k=draw.randint(1, 60))) for _ in range(count)]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(file)

    return make


@pytest.fixture
def source_of():
    """`source_of(name, tokens)` -> a source whose ids count up, in documents of 37 tokens."""

    def make(name: str, tokens: int, **options) -> Source:
        ids = list(range(tokens))
        lists = [ids[at : at + 37] for at in range(0, tokens, 37)]
        chunks = [pa.array(lists[at : at + 5], pa.list_(pa.int32())) for at in range(0, len(lists), 5)]
        return Source(Tokens(name, chunks), **options)

    return make
