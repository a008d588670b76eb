"""A ladder of sizes and budgets as the steps of a plan: one warmup-stable-decay run of a size serves all its budgets.

The stem of a size trains at a constant rate and leaves a checkpoint where each budget's decay begins; a branch goes on
from there, optimizer and order of data included, while the rate falls to zero (MiniCPM, arXiv 2404.06395; WSD-S). So a
budget costs its decay alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..models import LlamaHerdConfig
from ..recipe import RecipeError
from ..recipe.bounds import shown
from ..runtime.files import write_text
from ..sizes.cost import cost
from .manager import Run
from .plan import Plan

COUNTS = ("blocks", "with_head", "all")
OURS = ("output_dir", "seed", "max_steps", "num_train_epochs", "lr_scheduler_type", "lr_scheduler_kwargs")
# which would say otherwise how large a model is, or how many tokens it has seen
OTHERS = ("model_name_or_path", "stages", "packing")
STEM = {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {}, "save_strategy": "steps"}
SAVING = ("save_strategy", "save_steps", "save_total_limit", "save_only_model", "resume_from_checkpoint")


@dataclass(frozen=True)
class Point:
    """One measured model of a ladder: a size, a seed and a budget. flops: as trained, of tokens = steps · batch."""

    name: str
    size: str
    seed: int
    budget: float
    flops: float
    tokens: int
    steps: int
    parameters: dict[str, int]
    target: bool = False

    @property
    def run(self) -> str:
        """The stem that the point shares with those of other budgets."""
        return f"{self.size}-{self.seed}"


@dataclass(frozen=True)
class Ladder:
    """The steps of a plan, as its YAML has them, and the points they leave."""

    steps: list[dict]
    points: list[Point]


def counted(config: LlamaHerdConfig) -> dict[str, int]:
    """Parameters in three ways: those of the blocks, with the head as well, and all.

    A head that is tied to the embeddings multiplies as any other and counts; embeddings that are only looked up do not.
    """
    parts = cost(config).parameters
    head = parts.head or parts.embeddings
    return dict(zip(COUNTS, (parts.non_embedding, parts.non_embedding + head, parts.total), strict=True))


def check(pretrain: Mapping[str, Any], sizes: Mapping[str, Mapping], budgets: Sequence[float], decay: float) -> None:
    """Raises RecipeError for what no ladder can be made of."""
    if not pretrain.get("eval_datasets"):
        raise RecipeError("pretrain.eval_datasets: found none, expected the held-out documents that laws are fitted to")
    for where, options in [("pretrain", pretrain), *((f"sizes.{name}", size) for name, size in sizes.items())]:
        refuse_own(options, (*OURS, *OTHERS, *SAVING), where)
    warmup = pretrain.get("warmup_steps")
    if type(warmup) is not int or warmup < 1:
        found = f"found {shown(warmup)}, expected a number of steps, the same in a stem and its branches"
        raise RecipeError(f"pretrain.warmup_steps: {found}")
    multiples = [budget / min(budgets) for budget in budgets]
    if any(abs(multiple - round(multiple)) > 1e-6 for multiple in multiples) or len(set(budgets)) < len(budgets):
        raise RecipeError(f"budgets: found {shown(list(budgets))}, expected whole multiples of the smallest, each once")
    if not 0 < decay < 1:
        raise RecipeError(f"decay: found {decay}, expected a share of each budget, above 0 and below 1")


def ladder(
    pretrain: Mapping[str, Any],
    sizes: Mapping[str, Mapping],
    configs: Mapping[str, LlamaHerdConfig],
    budgets: Sequence[float],
    seeds: Sequence[int],
    decay: float,
    target: bool = False,
) -> Ladder:
    """Stems and branches of all sizes and seeds.

    Args:
        pretrain: options of recipes/pretrain.py that all have. sizes: further options by name of a size. configs: the
            sizes' configurations. budgets: training FLOPs, whole multiples of the smallest. decay: share of a budget's
            steps over which its rate falls. target: whether these are measured to be predicted.

    Raises:
        RecipeError: a budget in which a size has no step to decay over, or ends its warm-up too late.
    """
    steps, points = [], []
    for name, size in sizes.items():
        options = {**pretrain, **size}
        batch = tokens_a_step(options)
        each = cost(configs[name], context_of(options)).causal.per_token * batch  # FLOPs a step
        unit = round((1 - decay) * min(budgets) / each)
        if unit <= options["warmup_steps"]:
            found = f"{min(budgets):.3g} FLOPs are {min(budgets) / each:.0f} steps of size {name!r}"
            raise RecipeError(f"budgets: {found}, expected more beside its warm-up of {options['warmup_steps']}")
        multiples = sorted(round(budget / min(budgets)) for budget in budgets)
        for seed in seeds:
            stem = STEM | {"max_steps": unit * multiples[-1], "save_steps": unit, "seed": seed}
            steps.append({"name": f"{name}-{seed}", "recipe": "pretrain", "set": options | stem})
            for multiple in multiples:
                begin = unit * multiple
                fall = max(round(begin * decay / (1 - decay)), 1)
                branch = decay_from(f"{name}-{seed}", begin, fall) | {"seed": seed}
                label = f"{name}-{seed}-x{multiple}"
                steps.append({"name": label, "recipe": "pretrain", "set": options | branch})
                total = begin + fall
                points.append(
                    Point(
                        *(label, name, seed, min(budgets) * multiple, each * total, total * batch, total),
                        counted(configs[name]),
                        target,
                    )
                )
    return Ladder(steps, points)


def decay_from(stem: str, begin: int, steps: int) -> dict:
    """Options with which a run goes on from a stem's checkpoint while the rate falls linearly to zero."""
    decay = {"num_decay_steps": steps, "decay_type": "linear", "min_lr_ratio": 0.0}
    schedule = {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": decay, "max_steps": begin + steps}
    return schedule | {"save_strategy": "no", "resume_from_checkpoint": f"{{{stem}}}/checkpoint-{begin}"}


def refuse_own(pretrain: Mapping[str, Any], own: Sequence[str], where: str = "pretrain") -> None:
    """Raises RecipeError for options of pretraining that an experiment itself sets."""
    if found := sorted(set(pretrain) & set(own)):
        raise RecipeError(f"{where}.{found[0]}: found {shown(pretrain[found[0]])}, expected none; the recipe sets it")


def context_of(pretrain: Mapping[str, Any]) -> int:
    """Tokens of a row, from options of recipes/pretrain.py."""
    return pretrain.get("context", 256)


def tokens_a_step(pretrain: Mapping[str, Any]) -> int:
    """Tokens of a step, from options of recipes/pretrain.py."""
    batch = pretrain.get("per_device_train_batch_size", 8) * pretrain.get("gradient_accumulation_steps", 1)
    return batch * context_of(pretrain)


def run_steps(steps: Sequence[dict], output_dir: str | Path, recipes: Path, jobs: int = 1) -> dict[str, Path]:
    """Runs steps as a plan of their own, `plan.yaml` in the directory; those that are finished are not run again.

    Returns:
        The directory of every step, by its name.
    """
    plan = Path(output_dir) / "plan.yaml"
    # many short runs: start-up is paid once
    written = {"name": Path(output_dir).name, "executor": "inline", "steps": list(steps)}
    write_text(plan, yaml.safe_dump(written, sort_keys=False))
    run = Run(Plan.load(plan, recipes), Path(output_dir) / "runs", recipes)
    run.execute(jobs=jobs)
    return run.folders


def eval_losses(folders: Mapping[str, Path]) -> dict[str, float]:
    """The held-out loss of every step, from its metrics.json.

    Raises:
        RecipeError: a run without one.
    """
    found = {}
    for name, folder in folders.items():
        found[name] = json.loads((folder / "metrics.json").read_text()).get("eval_loss")
        if found[name] is None:
            raise RecipeError(f"pretrain.eval_datasets: found no eval_loss of {name!r}, expected held-out documents")
    return found
