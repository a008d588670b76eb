"""What the benchmarks share: models with identical weights, trainers as a user would make them, random data."""

import gc
import tempfile
from copy import deepcopy
from functools import cache

import numpy as np
import torch
from datasets import Dataset
from measure import peak, resident
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM, LlamaHerdForSequenceClassification
from llama_align.chat import train_tokenizer
from llama_align.models import PRESETS

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
SHAPES = {
    # herd-micro, 10M weights, is the size people train on a laptop
    **{name: PRESETS[name] for name in ("herd-nano", "herd-micro", "herd-mini", "llama-3.2-1b")},
    # 124M weights, four layers of herd-mini's width under Llama 3's vocabulary: the head is most of the work
    "vocab128k": PRESETS["herd-mini"] | {"num_hidden_layers": 4, "vocab_size": 128256, "tie_word_embeddings": True},
}
HEADS = {"causal": (LlamaForCausalLM, LlamaHerdForCausalLM)}
HEADS["reward"] = (LlamaForSequenceClassification, LlamaHerdForSequenceClassification)


def one_of(shape: str, dtype: str, head: str = "causal", ours: bool = True):
    """LlamaHerd or transformers' Llama with random weights, in training mode with SDPA."""
    # a base model's context says nothing about its speed; TRL refuses rows beyond it
    fields = deepcopy(SHAPES[shape]) | {"max_position_embeddings": 8192, "pad_token_id": 0, "num_labels": 1}
    torch.manual_seed(0)
    return HEADS[head][ours]((LlamaConfig, LlamaHerdConfig)[ours](**fields)).to(DTYPES[dtype]).train()


def twins(shape: str, dtype: str, head: str = "causal") -> tuple:
    """transformers' Llama and LlamaHerd with the same weights."""
    stock, herd = one_of(shape, dtype, head, ours=False), one_of(shape, dtype, head)
    herd.load_state_dict(stock.state_dict())
    return stock, herd


@cache
def tokenizer():
    return train_tokenizer(["a b c d e f g h"], 400)


def arguments(config: type, **changes):
    """Training arguments with everything off that is not the step itself."""
    settings = {
        "output_dir": tempfile.mkdtemp(),
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "max_steps": 1000,
        "learning_rate": 1e-6,
    }
    return config(**settings | changes)


def step_of(trainer, batch: dict):
    """A function that runs one whole training step: loss, gradients, clipping, optimizer."""
    model = trainer.model.train()
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1

    def step():
        labels = batch.get("labels")
        items = None if labels is None else (labels[:, 1:] != -100).sum()
        step.loss = trainer.training_step(model, dict(batch), num_items_in_batch=items).item()
        trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        model.zero_grad()

    return step


def growth_of(trainer, batch: dict) -> dict[str, float]:
    """MB held before the first of two loss and gradient computations, and by how much their peak exceeds it."""
    model = trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    labels = batch.get("labels")
    items = None if labels is None else (labels[:, 1:] != -100).sum()
    gc.collect()
    before = resident()
    for _ in range(2):
        trainer.training_step(model, dict(batch), num_items_in_batch=items)
        model.zero_grad()
    return {"before": before, "grown": peak() - before}


def rows_of_ids(rows: int, length: int, vocabulary: int, labelled: float = 1.0) -> dict[str, torch.Tensor]:
    """Random full rows, of which the last part is labelled."""
    ids = torch.randint(3, vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, : round(length * (1 - labelled))] = -100
    return {"input_ids": ids, "labels": labels}


def lognormal_lengths(count: int, mean: int = 200, longest: int = 1024, sigma: float = 0.8, seed: int = 3) -> list[int]:
    draw = np.random.default_rng(seed)
    return np.clip(draw.lognormal(np.log(mean) - sigma**2 / 2, sigma, count).astype(int), 8, longest).tolist()


def one_row(**columns) -> Dataset:
    """A data set for trainers that want one before they are handed batches."""
    return Dataset.from_dict({name: [value] for name, value in columns.items()})
