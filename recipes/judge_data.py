"""Judges data by annealing a half-trained checkpoint on it: 30% new, 70% old, beside a control on old alone.

    python recipes/judge_data.py --config recipes/herd-nano-scaling/judge_data.yaml

As in Llama 3, section 3.1.3, the rate falls linearly to zero. What it does not have is the control: here every seed has
one, of as many tokens, so that what the decay gives is not put down to the data. All gains are over it, seed by seed.
"""

from dataclasses import dataclass, field
from pathlib import Path

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.models import preset
from llama_align.report import laws as pictures
from llama_align.report.figures import standalone
from llama_align.rounds.ladder import OURS, SAVING, STEM, context_of, decay_from, refuse_own, run_steps, tokens_a_step
from llama_align.rounds.mixes import Sources
from llama_align.runtime.files import write_text
from llama_align.scaling.gains import CONTROL, gains, on_benchmarks

OWN = (*OURS, *SAVING, "datasets", "eval_datasets", "ignore_data_skip", "stages")


@dataclass
class JudgeDataArguments:
    output_dir: str = field(metadata={"help": "where mixes, runs, metrics.json and the picture go"})
    pretrain: dict = field(default_factory=dict, metadata={"help": "options of recipes/pretrain.py that all runs have"})
    old: dict = field(default_factory=dict, metadata={"help": "data sources by name that the checkpoint is trained on"})
    new: dict = field(default_factory=dict, metadata={"help": "data sources by name that are judged"})
    planted: dict = field(
        default_factory=dict, metadata={"help": "name: source whose words it has in any order; judged as a check"}
    )
    tokens: int = field(default=1_000_000, metadata={"help": "of the checkpoint, at a constant rate"})
    anneal_tokens: int = field(default=200_000, metadata={"help": "of each decay to zero"})
    share: float = field(default=0.3, metadata={"help": "of the new data while the rate falls"})
    part: float = field(default=0.05, metadata={"help": "share of each source's documents held out for its loss"})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "each anneals once on every mix"})
    benchmarks: list[str] = field(
        default_factory=list, metadata={"help": "tasks of recipes/benchmark.py that every run is measured on as well"}
    )
    limit: int | None = field(default=None, metadata={"help": "items of each part of a benchmark, the first ones"})
    jobs: int = field(default=1, metadata={"help": "runs at work at once"})


def steps_of(args: JudgeDataArguments, sources: Sources) -> list[dict]:
    """The half-trained checkpoint, and its anneals by name and seed."""
    names, tokens = list(args.old), sources.tokens
    old = {name: tokens[name] / sum(tokens[other] for other in names) for name in names}
    folder, each = Path(args.output_dir).resolve() / "mixes", tokens_a_step(args.pretrain)
    half, fall = max(args.tokens // each, 1), max(args.anneal_tokens // each, 1)
    if (warmup := args.pretrain["warmup_steps"]) >= half:
        raise recipe.RecipeError(f"pretrain.warmup_steps: found {warmup}, expected fewer than tokens have, {half}")

    def mix(name: str, shares: dict[str, float], length: int, seed: int | str) -> list[dict]:
        path = folder / f"{name}.jsonl"
        return [{"path": sources.write(path, shares, length, seed)}]

    # drawn otherwise than by any seed, whose old data would begin with what the checkpoint has just seen
    stem = STEM | {"datasets": mix("half", old, args.tokens, "half"), "max_steps": half, "save_steps": half}
    steps = [{"name": "half", "recipe": "pretrain", "set": args.pretrain | stem}]
    for seed in args.seeds:
        for name in (CONTROL, *args.new, *args.planted):
            new = {} if name == CONTROL else {name: args.share}
            shares = {one: part * (1 - sum(new.values())) for one, part in old.items()}
            for one, part in new.items():
                shares[one] = shares.get(one, 0) + part
            own = {"datasets": mix(f"{name}-{seed}", shares, args.anneal_tokens, seed), "seed": seed}
            own |= decay_from("half", half, fall) | {"ignore_data_skip": True}
            steps.append({"name": f"{name}-{seed}", "recipe": "pretrain", "set": args.pretrain | own})
    return steps


def draw(title: str, gains: dict[str, list], unit: str, path: Path) -> None:
    write_text(path, standalone(pictures.gains(title, {name: tuple(mean) for name, mean in gains.items()}, unit)))


def main(args: JudgeDataArguments) -> None:
    recipe.one_process()
    refuse_own(args.pretrain, OWN)
    if not args.old or not args.new or len(args.seeds) < 2 or not 0 < args.share < 1:
        raise recipe.RecipeError("old, new, seeds, share: found too few, expected sources, two seeds, a share below 1")
    if CONTROL in {*args.new, *args.planted} or type(args.pretrain.get("warmup_steps")) is not int:
        raise recipe.RecipeError(f"new, pretrain.warmup_steps: expected no name {CONTROL!r}, and a number of steps")
    benchmarks = None
    if args.benchmarks:
        from llama_align.benchmarks.predicted import ladder_benchmarks, measured  # takes the extra `benchmarks`

        tokenizer = recipe.load_tokenizer(args.pretrain.get("tokenizer", ""), dialogs=False)
        model = preset(args.pretrain.get("size", "herd-nano"), **args.pretrain.get("size_overrides", {}))
        where, context = f"{args.output_dir}/benchmarks", model.max_position_embeddings
        benchmarks = ladder_benchmarks(args.benchmarks, where, args.limit, tokenizer, context)
    sources = Sources.read(args.pretrain.get("tokenizer", ""), args.old | args.new, args.planted, args.part)
    folders = run_steps(steps_of(args, sources), args.output_dir, Path(__file__).resolve().parent, args.jobs)
    targets, context = list(args.old | args.new), context_of(args.pretrain)

    names = [CONTROL, *args.new, *args.planted]
    runs = [folders[f"{name}-{seed}"] for name in names for seed in args.seeds]
    of_runs = sources.losses(runs, targets, context).reshape(len(names), len(args.seeds), -1)
    control, *others = of_runs
    found = {name: gains(losses, control) for name, losses in zip(names[1:], others, strict=True)}
    ranked = sorted(found, key=lambda name: -found[name]["mean"][0])
    rows = {name: found[name] for name in ranked}
    of_tasks = {}
    if benchmarks:
        of_tasks = measured(benchmarks, {name: folder for name, folder in folders.items() if name != "half"})
        for name, row in on_benchmarks(of_tasks, ranked, args.seeds).items():
            rows[name]["benchmarks"] = row
    recipe.write_json(
        f"{args.output_dir}/metrics.json", {"targets": targets, "control": control.mean(0).tolist(), "gains": rows}
    )
    folder = Path(args.output_dir)
    means = {name: row["mean"] for name, row in rows.items()}
    draw("gains over the control", means, "nats a token", folder / "gains.svg")
    heading = f"{'gain over the control, nats a token':36s} {'mean and 95% interval':>28s}  {'own held-out text':>18s}"
    recipe.say(heading)
    for name, row in rows.items():
        mean, own = row["mean"], f"{row['targets'][targets.index(name)][0]:+.4f}" if name in targets else ""
        recipe.say(f"{name:36s} {mean[0]:+.4f} [{mean[1]:+.4f}, {mean[2]:+.4f}]      {own:>18s}")
    for task in of_tasks:
        on = {name: [row["benchmarks"][key][task] for key in ("nll", "accuracy")] for name, row in rows.items()}
        losses_of = {name: nll for name, (nll, _) in on.items()}
        draw(f"gains on {task}", losses_of, "nats a byte", folder / f"{task}_gains.svg")
        recipe.say(f"{f'{task}, nats a byte':36s} {'mean and 95% interval':>28s}  {'accuracy':>27s}")
        for name, both in on.items():
            recipe.say(f"{name:36s} " + "  ".join(f"{m:+.4f} [{low:+.4f}, {high:+.4f}]" for m, low, high in both))


if __name__ == "__main__":
    recipe.run(main, JudgeDataArguments, doc=__doc__)
