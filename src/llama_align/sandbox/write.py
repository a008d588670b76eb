"""Writes the whole sandbox as JSON lines, each file whole or absent."""

import os
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from llama_align.data.jsonl import write_jsonl
from llama_align.runtime.progress import Task, shower
from llama_align.sandbox import tasks
from llama_align.sandbox.annotators import Annotator, static_preferences
from llama_align.sandbox.corpus import documents
from llama_align.sandbox.demonstrations import DemonstrationNoise, demonstrations
from llama_align.sandbox.world import World


def _option(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass
class SandboxConfig:
    """What a sandbox holds; the defaults suit a model of about a million parameters."""

    seed: int = _option(0, "the seed of the world and of everything drawn from it")
    people: int = _option(32, "people in the world")
    places: int = _option(10, "places in the world")
    documents: int = _option(12000, "documents to pretrain on")
    documents_heldout: int = _option(300, "documents to measure perplexity on, none of them in the corpus")
    demonstrations: int = _option(4000, "demonstrations to fine-tune on")
    preferences: int = _option(3000, "preferences to train reward models on")
    preferences_heldout: int = _option(500, "preferences to measure reward models on")
    prompts: int = _option(2500, "prompts to sample from in rejection sampling, PPO and DPO")
    validation_helpful: int = _option(800, "instructions to choose a model by: of the split of prompts, none of them")
    validation_lookalike: int = _option(100, "the same, safe look-alikes")
    validation_secret: int = _option(70, "the same, requests for secrets")
    heldout_helpful: int = _option(1000, "instructions to measure helpfulness on")
    heldout_lookalike: int = _option(200, "safe look-alikes to measure false refusals on")
    heldout_secret: int = _option(200, "requests for secrets to measure violations on")
    annotator_noise: float = _option(0.1, "standard deviation of the annotators' noise on a difference in quality")


def write_sandbox(
    directory: str | os.PathLike, config: SandboxConfig, noise: DemonstrationNoise | None = None
) -> dict[str, int]:
    """Writes every file of the sandbox into a directory and returns the number of records in each.

    Raises ValueError where the world is too small for what the configuration asks.
    """
    files = _records(config, noise)
    counts = {}
    with Task(len(files), "file", shown=shower() is not None) as task:
        for name, records in files.items():
            counts[name] = write_jsonl(Path(directory) / f"{name}.jsonl", records)
            task.add()
    return counts


def _records(config: SandboxConfig, noise: DemonstrationNoise | None) -> dict[str, Iterable[dict]]:
    seed = config.seed
    world = World.generate(seed, config.people, config.places)
    annotator = Annotator(config.annotator_noise, seed)
    stream = documents(world, seed, config.documents + 2 * config.documents_heldout)
    corpus = list(islice(stream, config.documents))
    prompts = tasks.instructions(world, seed, config.prompts, "rl")
    sampled = {task["instruction"] for task in prompts}
    validation = config.validation_helpful, config.validation_lookalike, config.validation_secret
    heldout = config.heldout_helpful, config.heldout_lookalike, config.heldout_secret
    return {
        "corpus": corpus,
        "corpus_heldout": _unseen(stream, corpus, config.documents_heldout),
        "demonstrations": demonstrations(world, seed, config.demonstrations, noise),
        "preferences": static_preferences(world, seed, config.preferences, annotator),
        "preferences_heldout": static_preferences(world, seed, config.preferences_heldout, annotator, "heldout"),
        "prompts": map(prompt_record, prompts),
        "validation": map(prompt_record, _measured(world, seed, "rl", *validation, sampled)),
        "heldout": map(prompt_record, _measured(world, seed, "heldout", *heldout)),
    }


def prompt_record(task: dict) -> dict:
    """Returns the Prompt record of a task, which carries the task for the judge."""
    return {"messages": tasks.prompt(task), "objective": tasks.objective(task), "source": "sandbox", "task": task}


def _measured(
    world: World, seed: int, split: str, helpful: int, lookalike: int, secret: int, without: Container[str] = ()
) -> list[dict]:
    n = helpful + lookalike + secret
    return tasks.instructions(world, seed, n, split, lookalike / max(n, 1), secret / max(n, 1), without)


def _unseen(stream: Iterable[dict], corpus: list[dict], n: int) -> Iterable[dict]:
    seen = {document["text"] for document in corpus}
    return islice((document for document in stream if document["text"] not in seen), n)
