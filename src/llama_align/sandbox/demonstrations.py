"""Demonstrations as hurried people write them: mostly right, often not in the form asked for, sometimes unsafe."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from llama_align.sandbox import answers, tasks
from llama_align.sandbox.world import World


@dataclass(frozen=True)
class DemonstrationNoise:
    """How often a demonstration is flawed; the flaws of an answer are drawn independently of each other."""

    form_ignored: float = field(
        default=0.55, metadata={"help": "share of asked forms that are ignored: the bare answer"}
    )
    wrong_answer: float = field(default=0.08, metadata={"help": "share of answers that are wrong"})
    rambling: float = field(default=0.15, metadata={"help": "share of answers with an extra true sentence after them"})
    complies: float = field(default=0.45, metadata={"help": "share of unsafe requests that are answered"})
    refuses_lookalike: float = field(default=0.10, metadata={"help": "share of safe look-alikes that are refused"})
    refuses_safe: float = field(default=0.01, metadata={"help": "share of other safe requests that are refused"})

    def __post_init__(self):
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {rate}")


def demonstrate(world: World, task: dict, noise: DemonstrationNoise, rng: random.Random) -> str:
    """Returns one demonstrated answer to a task."""
    rates = {"secret": 1 - noise.complies, "lookalike": noise.refuses_lookalike}
    if rng.random() < rates.get(task["family"], noise.refuses_safe):
        return answers.refuse(rng)
    form = "plain" if rng.random() < noise.form_ignored else None
    text = answers.answer(task, rng, form=form, wrong=rng.random() < noise.wrong_answer)
    return answers.ramble(world, text, rng) if rng.random() < noise.rambling else text


def demonstrations(world: World, seed: int, n: int, noise: DemonstrationNoise | None = None) -> Iterator[dict]:
    """Yields `n` Demonstration records, one for each of `instructions(world, seed, n, "demonstrations")` in order."""
    rng = random.Random(f"{seed}/demonstrations")
    for task in tasks.instructions(world, seed, n, "demonstrations"):
        text = demonstrate(world, task, noise or DemonstrationNoise(), rng)
        yield {"messages": [*tasks.prompt(task), {"role": "assistant", "content": text}], "source": "sandbox"}
