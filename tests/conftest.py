"""Fixtures shared by all tests: no network, one thread, tiny tokenizers and tiny models."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers or datasets
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import random
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from llama_align import LlamaHerdConfig
from llama_align.chat import train_tokenizer

from .launch.warm import Warm

# Debian's, for what has to be looked at as people do, and what keeps it from asking anything of the network
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SYLLABLES = ["ba", "do", "ki", "lu", "me", "no", "ra", "si", "te", "vu", "zo", "qui"]


def made_up_text(words: int, seed: int) -> str:
    draw = random.Random(seed)
    made = ("".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(words))
    return " ".join(f"{word}{draw.choice(['', '', ',', '.', ' 12', ' 2024'])}" for word in made)


def _tiny_tokenizer(folder, style: str, size: int):
    texts = [made_up_text(40, seed) + "\nÄpfel, naïve, 東京\n\n" for seed in range(40)]
    train_tokenizer(texts, size, style=style).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


LONGEST = ("rounds/test_kills.py", "launch/", "recipes/", "trainers/", "rejection/", "rounds/", "recipe/", "publish/")


def pytest_collection_modifyitems(items):
    """What takes minutes comes first, so that no process of several is left alone with it at the end."""

    def place(item) -> int:
        return next((n for n, name in enumerate(LONGEST) if item.nodeid.startswith(f"tests/{name}")), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Models of this size only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def warm():
    """Runs commands without their imports."""
    started = Warm()
    yield started
    started.close()


@pytest.fixture(scope="session")
def llama3_tokenizer(tmp_path_factory):
    """Byte-level tokenizer of 400 ids, saved and loaded again."""
    return _tiny_tokenizer(tmp_path_factory.mktemp("llama3_tokenizer"), "llama3", 400)


@pytest.fixture(scope="session")
def llama2_tokenizer(tmp_path_factory):
    """Tokenizer with byte fallback of 500 ids, saved and loaded again."""
    return _tiny_tokenizer(tmp_path_factory.mktemp("llama2_tokenizer"), "llama2", 500)


@pytest.fixture(scope="session")
def tokenizer(llama3_tokenizer):
    return llama3_tokenizer


@pytest.fixture(scope="session")
def tiny_config(llama3_tokenizer):
    """Makes the configuration of a model of some thousand weights that fits `tokenizer`."""

    def make(**changes) -> LlamaHerdConfig:
        defaults = {
            "vocab_size": len(llama3_tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "initializer_range": 0.2,  # large enough that a wrong token or mask shows in the numbers
            "bos_token_id": llama3_tokenizer.bos_token_id,
            "eos_token_id": llama3_tokenizer.eos_token_id,
            "pad_token_id": llama3_tokenizer.pad_token_id,
        }
        return LlamaHerdConfig(**defaults | changes)

    return make
