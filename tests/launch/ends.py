"""A recipe that leaves a wrapped model in a cycle, and says which of its group's threads are left when it ends."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState

from llama_align import recipe


@dataclass
class Options:
    fails: bool = False


def main(options: Options) -> None:
    PartialState(cpu=True, backend="gloo")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(300, 300))
    model.itself = [model]
    for _ in range(3):
        model(torch.ones(2, 300)).sum().backward()
    if options.fails:
        raise recipe.RecipeError("asked to")


try:
    recipe.run(main, Options)
finally:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print("gloo threads:", sum("gloo" in name for name in names), file=sys.stderr)
