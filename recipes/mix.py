"""Fits the law of a data mix to tiny runs with different mixes, proposes a mix and trains on it beside others.

    python recipes/mix.py --config recipes/herd-nano-scaling/mix.yaml

The first two runs have the natural mix (shares of the tokens there are) and the uniform one; the others are drawn. Runs
that are held out say how well the law ranks mixes, beside a linear one. docs/scaling.md explains the law.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.report import laws as pictures
from llama_align.report.figures import standalone
from llama_align.rounds.ladder import context_of, refuse_own, run_steps, tokens_a_step
from llama_align.rounds.mixes import Sources
from llama_align.runtime.files import write_text
from llama_align.runtime.progress import Task
from llama_align.scaling import mixing

OWN = ("output_dir", "seed", "max_steps", "num_train_epochs", "datasets", "eval_datasets", "save_strategy", "stages")


@dataclass
class MixArguments:
    output_dir: str = field(metadata={"help": "where mixes, runs, metrics.json and pictures go"})
    pretrain: dict = field(default_factory=dict, metadata={"help": "options of recipes/pretrain.py that all runs have"})
    sources: dict = field(default_factory=dict, metadata={"help": "data sources by name"})
    planted: dict = field(
        default_factory=dict, metadata={"help": "name: source whose words it has in any order; a check, no target"}
    )
    tokens: int = field(default=500_000, metadata={"help": "of each run"})
    mixtures: int = field(default=32, metadata={"help": "runs the law is fitted to, natural and uniform among them"})
    tested: int = field(default=8, metadata={"help": "further runs, on which the law is tested"})
    part: float = field(default=0.05, metadata={"help": "share of each source's documents held out for its loss"})
    budget: float = field(default=0.0, metadata={"help": "tokens the mix is for (0: those of a run)"})
    most_epochs: float = field(default=4.0, metadata={"help": "bound on how often the mix reads any source"})
    draws: int = field(default=200, metadata={"help": "of the bootstrap"})
    seed: int = field(default=0, metadata={"help": "of the mixes; all runs train with one seed"})
    jobs: int = field(default=1, metadata={"help": "runs at work at once"})


def drawn(natural: np.ndarray, runs: int, seed: int) -> np.ndarray:
    """Mixes [runs, domains]: natural, uniform, and others between single sources and both; small shares become 0."""
    rng, domains = np.random.default_rng(seed), len(natural)
    middle = 0.5 * natural + 0.5 / domains
    found = np.array([rng.dirichlet(middle * domains * rng.choice([0.3, 1, 3])) for _ in range(runs - 2)])
    found = np.where(found < 0.01, 0, found)
    return np.concatenate([[natural], [np.full(domains, 1 / domains)], found / found.sum(1, keepdims=True)])


def measured(args: MixArguments, sources: Sources, mixes: dict[str, np.ndarray], asked: list[str]) -> np.ndarray:
    """Held-out losses [asked, targets] of models trained on the mixes; those that are there are not trained again."""
    names, steps = list(sources.tokens), []
    for name, mix in mixes.items():
        path = Path(args.output_dir).resolve() / "mixes" / f"{name}.jsonl"
        sources.write(path, dict(zip(names, map(float, mix), strict=True)), args.tokens, args.seed)
        own = {"datasets": [{"path": str(path)}], "max_steps": max(args.tokens // tokens_a_step(args.pretrain), 1)}
        steps.append({"name": name, "recipe": "pretrain", "set": args.pretrain | own | {"save_strategy": "no"}})
    folders = run_steps(steps, args.output_dir, Path(__file__).resolve().parent, args.jobs)
    targets, context = list(args.sources), context_of(args.pretrain)
    return sources.losses([folders[name] for name in asked], targets, context)


def tested(law: mixing.MixingLaw, fitted: tuple, held: tuple) -> dict:
    """Spearman's of the mean loss predicted and measured, on runs held out."""
    (mixes, losses), (new, new_losses) = fitted, held
    predicted = {"law": law.predict(new), "linear": mixing.shares(new) @ mixing.linear(mixes, losses)}
    return {name: mixing.rank_correlation(found.mean(1), new_losses.mean(1)) for name, found in predicted.items()}


def main(args: MixArguments) -> None:
    recipe.one_process()
    refuse_own(args.pretrain, OWN)
    if len(args.sources) < 2 or args.mixtures < len(args.sources) + len(args.planted) + 2 or args.tested < 3:
        found = f"found {len(args.sources)}, {args.mixtures} and {args.tested}"
        raise recipe.RecipeError(f"sources, mixtures, tested: {found}, expected 2, more runs than sources and 3")
    sources = Sources.read(args.pretrain.get("tokenizer", ""), args.sources, args.planted, args.part)
    names, tokens = list(sources.tokens), np.array(list(sources.tokens.values()), float)
    natural = tokens / tokens.sum()
    most = mixing.epoch_bound(tokens, args.budget or args.tokens, args.most_epochs)
    if most.sum() < 1:
        found = f"found {args.most_epochs:g} epochs of {tokens.sum():,.0f} tokens"
        raise recipe.RecipeError(f"budget: {found}, expected at least {args.budget or args.tokens:,.0f}")
    mixes = drawn(natural, args.mixtures + args.tested, args.seed)
    labels = ["natural", "uniform", *(f"mix-{number}" for number in range(len(mixes) - 2))]
    runs = dict(zip(labels, mixes, strict=True))
    losses = measured(args, sources, runs, labels)
    fitted, held = (mixes[: args.mixtures], losses[: args.mixtures]), (mixes[args.mixtures :], losses[args.mixtures :])
    law = mixing.fit(*fitted)
    most = np.minimum(most, fitted[0].max(0))  # beyond the shares that were tried the law is a guess
    with Task(args.draws, "fit") as task:
        resampled = task.counting(mixing.bootstrap(*fitted, args.draws, args.seed))
        proposal = mixing.Proposal.of(law, resampled, natural, most)
    (best,) = measured(args, sources, runs | {"proposed": proposal.mixture}, ["proposed"])
    ranked = [names[i] for i in np.argsort(-proposal.gains)]
    rows = {
        name: {
            "natural": natural[i],
            "share": [proposal.mixture[i], proposal.low[i], proposal.high[i]],
            "gain": [proposal.gains[i], proposal.gains_low[i], proposal.gains_high[i]],
        }
        for i, name in enumerate(names)
    }
    mean = {"natural": losses[0].mean(), "uniform": losses[1].mean(), "proposed": best.mean()}
    found = {"targets": list(args.sources), "sources": rows, "ranked": ranked, "mean_loss": mean}
    found |= {"predicted": float(law.predict([proposal.mixture]).mean()), "spearman": tested(law, fitted, held)}
    triples = zip(labels, mixes, losses, strict=True)
    found["runs"] = {name: {"mix": mix.tolist(), "losses": row.tolist()} for name, mix, row in triples}
    shares = {name: tuple(row["share"]) for name, row in rows.items()}
    picture = pictures.mix("the mix proposed", shares, natural)
    write_text(Path(args.output_dir) / "mix.svg", standalone(picture))
    picture = pictures.gains("gains of the sources", {name: tuple(rows[name]["gain"]) for name in ranked})
    write_text(Path(args.output_dir) / "gains.svg", standalone(picture))
    recipe.write_json(f"{args.output_dir}/metrics.json", found)
    for name in ranked:
        share, gain = ("{:+.3f} [{:+.3f}, {:+.3f}]".format(*rows[name][key]) for key in ("share", "gain"))
        recipe.say(f"{name:20s} share {share}  gain {gain}")
    said = ", ".join(f"{name} {value:.4f}" for name, value in mean.items())
    recipe.say(f"{said} {found['spearman']}")


if __name__ == "__main__":
    recipe.run(main, MixArguments, doc=__doc__)
