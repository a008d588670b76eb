"""A pretraining run's stages from its options: the plan of what is read, its learning rate and rotary frequencies.

Knows options; knows nothing of how rows are chosen or trained on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data import DataSource
from ..pretraining import Gates, Plan, Rates, Source, Stage
from ..report.gates import needle_pictures
from ..runtime.files import write_text
from .errors import RecipeError
from .positions import with_rope


def staged(args, training, sources: list[Source], parameters: dict) -> tuple[Plan | None, dict[str, Any]]:
    """The plan of the stages, None without any, and what a trainer takes beside it.

    Args:
        args: options of `recipes/pretrain.py`. parameters: the model's `rope_parameters`.

    Raises:
        RecipeError: an option that has no effect with stages, or none without. StageError: a stage that cannot be
            trained.
    """
    _refuse_shares(args.eval_datasets, "for held-out documents", "all of them are read once")
    if not args.stages:
        _refuse_without_stages(args)
        return None, {}
    if args.packing != "concat":
        raise RecipeError(f"packing: found {args.packing!r} with stages, expected concat")
    stages = [Stage.parse(stage, number, args.context) for number, stage in enumerate(args.stages)]
    if all(stage.mixture for stage in stages):
        _refuse_shares(args.datasets, "with a mixture in every stage", "the mixtures say", ("weight",))
    plan = Plan(sources, stages, training.seed if training.data_seed is None else training.data_seed)
    rates = Rates(
        plan.time,
        training.learning_rate,
        str(training.lr_scheduler_type.value),
        training.lr_scheduler_kwargs or {},
        training.warmup_steps,
        args.root_of_batch,
    )
    return plan, {"rate": rates.factor, "rotary": _rotary(plan.stages, parameters)}


def gated(plan: Plan | None, heldout: list[Source], tokenizer, output_dir: str) -> dict[str, Any]:
    """What a trainer takes for the gates of a plan; nothing where it has none.

    Raises:
        StageError: a gate that cannot be judged with these held-out documents.
    """
    if not (plan and any(stage.gate for stage in plan.stages)):
        return {}
    gates = Gates(plan, [source.tokens for source in heldout], tokenizer)
    return {"gates": gates, "show": _shown(gates, Path(output_dir))}


def _shown(gates: Gates, output: Path) -> Callable[[], None]:
    """Writes what a run has measured at its gates so far, which one that ends at a gate leaves, too."""

    def show() -> None:
        gates.save(output)
        for title, picture in needle_pictures(gates.summary()).items():
            write_text(output / f"{title}.svg", picture)

    return show


def _rotary(stages: list[Stage], parameters: dict) -> list[dict]:
    """Those of every stage; a stage that names none has those of the one before."""
    found = []
    for stage in stages:
        given = {"rope_theta": stage.rope_theta, "rope_scaling": stage.rope_scaling}
        fields = {name: value for name, value in given.items() if value is not None}
        parameters = with_rope(fields, parameters, stage.where).get("rope_parameters", parameters)
        found.append(dict(parameters))
    return found


def _refuse_without_stages(args) -> None:
    if args.root_of_batch:
        raise RecipeError("root_of_batch: found true without stages, expected false; batches are of one size")
    _refuse_shares(args.datasets, "without stages", "every source is read whole in every epoch")


def _refuse_shares(sources: list, where: str, why: str, names=("weight", "repeat", "epochs")) -> None:
    for source in map(DataSource.parse, sources):
        for name in names:
            if found := getattr(source, name):
                raise RecipeError(
                    f"data source {source.path}, key {name!r}: found {found} {where}, expected none; {why}"
                )


def heldout_numbers(metrics: dict[str, float]) -> dict[str, Any]:
    """Of an evaluation what does not depend on the clock: the loss, and bits per byte by source."""
    prefix = "eval_bits_per_byte/"
    by_source = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
    return {"eval_loss": metrics["eval_loss"]} | ({"eval_bits_per_byte": by_source} if by_source else {})
