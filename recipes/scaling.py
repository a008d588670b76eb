"""Runs a ladder of sizes and budgets, fits scaling laws to it and says how well they predict the runs above it.

    python recipes/scaling.py --config recipes/herd-nano-scaling/scaling.yaml

The ladder is a plan of its own below output_dir: stopped, the same command goes on. docs/scaling.md explains the laws.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.models import preset
from llama_align.report import laws as pictures
from llama_align.report.figures import standalone
from llama_align.rounds.ladder import COUNTS, check, eval_losses, ladder, run_steps
from llama_align.runtime.files import write_text
from llama_align.scaling import losses
from llama_align.scaling.isoflop import EdgeError, by_budget, frontier


@dataclass
class ScalingArguments:
    output_dir: str = field(metadata={"help": "where the ladder's runs, metrics.json and pictures go"})
    pretrain: dict = field(default_factory=dict, metadata={"help": "options of recipes/pretrain.py that all runs have"})
    sizes: dict = field(default_factory=dict, metadata={"help": "by name, further options, as size_overrides"})
    budgets: list[float] = field(default_factory=list, metadata={"help": "FLOPs, whole multiples of the smallest"})
    targets: dict = field(default_factory=dict, metadata={"help": "sizes to be predicted, as in sizes"})
    target_budget: float = field(default=0.0, metadata={"help": "FLOPs of the targets, above all budgets"})
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "each size is trained once per seed"})
    decay: float = field(default=0.2, metadata={"help": "share of a budget over which the rate falls to zero"})
    draws: int = field(default=400, metadata={"help": "of the bootstrap"})
    benchmarks: list[str] = field(
        default_factory=list, metadata={"help": "tasks of recipes/benchmark.py, predicted in two steps"}
    )
    limit: int | None = field(default=None, metadata={"help": "items of each part of a benchmark, the first ones"})
    jobs: int = field(default=1, metadata={"help": "runs at work at once"})


def configurations(pretrain: dict, sizes: dict) -> dict:
    """The configuration of each size, as recipes/pretrain.py makes it."""
    tokens = len(recipe.load_tokenizer(pretrain.get("tokenizer", ""), dialogs=False))
    options = {name: pretrain | size for name, size in sizes.items()}
    return {
        name: preset(one.get("size", "herd-nano"), **one.get("size_overrides", {}) | {"vocab_size": tokens})
        for name, one in options.items()
    }


def fitted(rows: list[dict], targets: list[dict], draws: int) -> dict:
    """Both fits by each way of counting parameters, and what they predict for the targets."""
    found = {}
    tokens, measured, runs = ([row[key] for row in rows] for key in ("tokens", "loss", "run"))
    for count in COUNTS:
        sizes = [row["parameters"][count] for row in rows]
        fit = losses.fit(sizes, tokens, measured, runs)
        resampled = fit.bootstrap(draws)
        predicted = [fit.predicted(t["parameters"][count], t["tokens"], resampled) for t in targets]
        for one, target in zip(predicted, targets, strict=True):
            one |= {"name": target["name"], "measured": target["loss"]}
            one["inside"] = one["low"] <= target["loss"] <= one["high"]
        ends = {name: [end if np.isfinite(end) else None for end in pair] for name, pair in fit.intervals().items()}
        law = {"constants": fit.law.constants, "intervals": ends, "predicted": predicted}
        try:
            iso = asdict(frontier(by_budget(*columns(rows, count)), draws))
        except EdgeError as error:
            iso = {"refused": str(error)}
        found[count] = {"law": law, "isoflop": iso}
    return found


def columns(rows: list[dict], count: str) -> tuple[list, list, list]:
    """Budgets, sizes counted in one way, and losses."""
    return tuple(zip(*((row["budget"], row["parameters"][count], row["loss"]) for row in rows), strict=True))


def draw(rows: list[dict], targets: list[dict], found: dict, output: Path) -> None:
    """The ladder by budget, and the prediction; parameters counted with the head."""
    budgets, minima = by_budget(*columns(rows, "with_head")), found["with_head"]["isoflop"].get("minima", {})
    write_text(output / "isoflop.svg", standalone(pictures.isoflop("loss by size and budget", budgets, minima)))
    predicted = found["with_head"]["law"]["predicted"]
    above = [(t["flops"], t["loss"], p["low"], p["high"]) for t, p in zip(targets, predicted, strict=True)]
    below = ([row["flops"] for row in rows], [row["loss"] for row in rows])
    picture = pictures.prediction("loss predicted and measured", below, above, "loss, nats a token")
    write_text(output / "prediction.svg", standalone(picture))


def main(args: ScalingArguments) -> None:
    recipe.one_process()
    if not args.sizes or not args.budgets:
        raise recipe.RecipeError("sizes, budgets: found none, expected sizes by name and budgets of FLOPs")
    check(args.pretrain, args.sizes | args.targets, args.budgets, args.decay)
    if args.targets and args.target_budget <= max(args.budgets):
        found = f"found {args.target_budget:g}, expected more than {max(args.budgets):g}, the largest of budgets"
        raise recipe.RecipeError(f"target_budget: {found}")
    if twice := sorted(set(args.sizes) & set(args.targets)):
        raise recipe.RecipeError(f"targets: found {twice[0]!r}, which is among sizes, expected another name")
    configs = configurations(args.pretrain, args.sizes)
    plan = ladder(args.pretrain, args.sizes, configs, args.budgets, args.seeds, args.decay)
    steps, points = plan.steps, plan.points
    if args.targets:
        above = (args.pretrain, args.targets, configurations(args.pretrain, args.targets), [args.target_budget])
        plan = ladder(*above, args.seeds[:1], args.decay, target=True)
        steps, points = steps + plan.steps, points + plan.points
    benchmarks = None
    if args.benchmarks:
        from llama_align.benchmarks.predicted import ladder_benchmarks, predict  # takes the extra `benchmarks`

        tokenizer = recipe.load_tokenizer(args.pretrain.get("tokenizer", ""), dialogs=False)
        context = min(config.max_position_embeddings for config in configs.values())
        benchmarks = ladder_benchmarks(args.benchmarks, f"{args.output_dir}/benchmarks", args.limit, tokenizer, context)
    folders = run_steps(steps, args.output_dir, Path(__file__).resolve().parent, args.jobs)
    measured = eval_losses(folders)
    rows = [asdict(point) | {"run": point.run, "loss": measured[point.name]} for point in points]
    below, above = ([row for row in rows if row["target"] is which] for which in (False, True))
    found = fitted(below, above, args.draws)
    draw(below, above, found, Path(args.output_dir))
    metrics = {"points": rows, "fits": found}
    if benchmarks:
        metrics["benchmarks"] = predict(benchmarks, folders, below, above, args.draws, Path(args.output_dir))
    recipe.write_json(f"{args.output_dir}/metrics.json", metrics)
    for count, one in found.items():
        for p in one["law"]["predicted"]:
            where = "inside" if p["inside"] else "outside"
            interval = f"{p['loss']:.4f} [{p['low']:.4f}, {p['high']:.4f}]"
            recipe.say(f"{count}: {p['name']} predicted {interval}, measured {p['measured']:.4f}, {where}")


if __name__ == "__main__":
    recipe.run(main, ScalingArguments, doc=__doc__)
