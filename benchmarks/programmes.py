"""A programme of rounds over several seeds: exact score by round, what was chosen, and how reward models did.

    python benchmarks/demo_seeds.py --output_dir runs/llama2 --plan recipes/herd-nano/llama2.yaml --kinds avx2
    python benchmarks/programmes.py keep runs/llama2/avx2-0 docs/results/programmes/llama2-0.json
    python benchmarks/programmes.py tables docs/results/programmes/llama2-?.json [--picture score.svg] \
        [--control docs/results/programmes/llama2_last-?.json]

`keep` writes what a finished run measured into one small file, so that seeds may be run on several days and machines.
`tables` pairs seeds; a control is the same programme in another way, with the same seeds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from demo_seeds import DECODINGS, RATES, interval

from llama_align.report import figures
from llama_align.report.inputs import Run, Step, read_run
from llama_align.runtime.files import write_text
from llama_align.scaling.gains import gains

KEPT = {
    "annotate": ("agreement", "right", "safety", "preferences", "left_out"),
    "reward": ("accuracy", "low", "high", "newest"),
    "rejection_sampling": ("chosen_by_round", "guards", "best_of_k"),
    "choose": ("chosen", "candidates"),
}


def kept(run: Run) -> dict:
    """What one run measured, without its lists by answer."""
    unfinished = [step.name for step in run.steps if step.metrics is None]
    if unfinished:
        raise SystemExit(f"{run.name}: without metrics.json: {', '.join(unfinished)}")
    rows = {
        one.step: {
            row["row"]: {key: row["score"][key] for key in ("mean", "low", "high")}
            | {"by_family": {name: found["mean"] for name, found in row["score"]["by_family"].items()}}
            | {rate: row["safety"][rate] for rate in RATES}
            | {"perplexity": row["perplexity"]["value"]}
            for row in one.metrics["rows"]
        }
        for one in run.evaluations
    }
    return {
        "programme": run.name,
        "seed": run.seed,
        "evaluations": rows,
        "steps": [_kept_of(step) for step in run.steps],
    }


def _kept_of(step: Step) -> dict:
    found = {"name": step.name, "of": step.of, "round": step.round, "seconds": step.seconds}
    measured = {key: step.metrics[key] for key in KEPT.get(step.recipe, ()) if key in step.metrics}
    if "guards" in measured:  # what was chosen against what was there, by the judge that chose nothing
        measured["heldout"] = {k: v for k, v in measured.pop("guards")["chosen_against_random"].items() if "/" in k}
        measured["best_of_k"] = [one["heldout"] for one in measured["best_of_k"]]
    return found | ({"alarms": step.alarms} if step.alarms else {}) | measured


def score(runs: Sequence[dict], step: str, key: str = "mean") -> np.ndarray:
    """Per cent [seeds, rounds], from round 0, the model that the programme starts from."""
    return 100 * np.array([[row[key] for row in run["evaluations"][step].values()] for run in runs])


def header(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |", "|---" * len(cells) + "|"]


def seeds(runs: Sequence[dict]) -> list[str]:
    return [f"seed {run['seed']}" for run in runs]


def by_round(runs: Sequence[dict], step: str) -> list[str]:
    """Scores by seed, their mean's gain on the round before and on round 1, and safety."""
    found, rates = score(runs, step), [score(runs, step, rate).mean(0) for rate in RATES]
    safety = "false refusals %", "violations %"
    lines = header("round", *seeds(runs), "on the round before", "on round 1", *safety)
    for number, values in enumerate(found.T):
        gain = [interval(list(values - found[:, before])) if number > before >= 0 else "" for before in (number - 1, 1)]
        cells = [*(f"{value:.1f}" for value in values), *gain, *(f"{rate[number]:.1f}" for rate in rates)]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    return lines


def by_family(runs: Sequence[dict], step: str) -> list[str]:
    """What each family of instructions scores by round, mean over seeds, and what is forgotten of the held-out text."""
    names = [*next(iter(runs[0]["evaluations"][step].values()))["by_family"]]
    lines = header("round", *names, "perplexity of text")
    for number, rows in enumerate(zip(*(run["evaluations"][step].values() for run in runs), strict=True)):
        means = [f"{100 * np.mean([row['by_family'][name] for row in rows]):.1f}" for name in names]
        perplexity = np.mean([row["perplexity"] for row in rows])
        lines.append(f"| {number} | {' | '.join(means)} | {perplexity:.2f} |")
    return lines


def choices(runs: Sequence[dict]) -> list[str]:
    """What each round carried on, by seed, with what the candidates gained on the model kept until then."""
    lines = header("round", *seeds(runs))
    choosing = [[step for step in run["steps"] if "chosen" in step] for run in runs]
    for steps in zip(*choosing, strict=True):
        cells = []
        for step in steps:
            tried = [
                f"{row['name']} {100 * row['gain']['difference']:+.1f}" for row in step["candidates"] if "gain" in row
            ]
            cells.append(f"**{step['chosen']}** ({', '.join(tried)})")
        lines.append(f"| {steps[0]['round']} | {' | '.join(cells)} |")
    return lines


def accuracies(runs: Sequence[dict]) -> list[str]:
    """Reward models by round: right on held-out pairs, and on the newest batch before and after training on it."""
    names = dict.fromkeys(step["of"] for step in runs[0]["steps"] if "accuracy" in step)
    lines = header("reward model", "round", "held-out pairs right %", "newest batch, before", "after")
    for name in names:
        found = [[step for step in run["steps"] if step["of"] == name and "accuracy" in step] for run in runs]
        for steps in zip(*found, strict=True):
            cells = [np.mean([100 * step["accuracy"] for step in steps])]
            for when in ("before", "after"):
                values = [step.get("newest", {}).get(when, {}).get("accuracy") for step in steps]
                cells.append(None if None in values else 100 * np.mean(values))
            shown = " | ".join("" if value is None else f"{value:.1f}" for value in cells)
            lines.append(f"| {name} | {steps[0]['round']} | {shown} |")
    return lines


def sampled(runs: Sequence[dict]) -> list[str]:
    """Rejection sampling by round: what was chosen, by the judge that chose nothing, and how good the best would be."""
    names = dict.fromkeys(step["of"] for step in runs[0]["steps"] if "heldout" in step)
    cells = "drawn by chance", "chosen", "best there was", "of that gain %", "one answer of this round", "best of its K"
    lines = header("step", "round", *cells, "chosen from earlier rounds %")
    for name in names:
        found = [[step for step in run["steps"] if step["of"] == name] for run in runs]
        for steps in zip(*found, strict=True):
            row = [next(iter(step["heldout"].values())) for step in steps]
            drawn, chosen, best = (100 * np.mean([one[key] for one in row]) for key in ("random", "chosen", "best"))
            of_k = 100 * np.mean([next(iter(step["best_of_k"][0].values())) for step in steps], axis=0)
            counts = [step.get("chosen_by_round", {}) for step in steps]
            newest = [one.get(str(steps[0]["round"]), 0) / max(sum(one.values()), 1) for one in counts]
            values = drawn, chosen, best, 100 * (chosen - drawn) / (best - drawn), of_k[0], of_k[-1]
            earlier = f"{100 * (1 - np.mean(newest)):.1f}" if all(counts) else ""
            lines.append(f"| {name} | {steps[0]['round']} | {' | '.join(f'{v:.1f}' for v in values)} | {earlier} |")
    return lines


def against(control: Sequence[dict], runs: Sequence[dict], step: str) -> list[str]:
    """What the runs score more than the control in every round, and in the last by family of instructions."""
    arms = [score(arm, step).T for arm in (control, runs)]
    rounds = "; ".join(interval(list(more - less)) for less, more in zip(*arms, strict=True))
    last = [[[*run["evaluations"][step].values()][-1] for run in arm] for arm in (control, runs)]
    less, more = (np.array([row["perplexity"] for row in arm]) for arm in last)
    families = [f"- perplexity of text: {interval(list(more - less))}"]
    for name in last[0][0]["by_family"]:
        less, more = (100 * np.array([row["by_family"][name] for row in arm]) for arm in last)
        families.append(f"- {name}: {interval(list(more - less))}")
    return ["", f"More than the control, by round: {rounds}. In the last by family:", "", *families]


def alarms(runs: Sequence[dict]) -> list[str]:
    steps = [(run["seed"], step) for run in runs for step in run["steps"]]
    return [f"- seed {seed}, {step['name']}: {text}" for seed, step in steps for text in step.get("alarms", ())]


PARTS = {"carried on": choices, "reward models": accuracies, "rejection sampling": sampled, "alarms": alarms}


def tables(runs: Sequence[dict], control: Sequence[dict]) -> str:
    """Markdown of all that is known of the seeds."""
    parts = []
    for step, decoding in DECODINGS.items():
        parts += [f"\n### {decoding}\n", *by_round(runs, step), "", *by_family(runs, step)]
        parts += against(control, runs, step) if control else []
    for title, lines in PARTS.items():
        parts += [f"\n### {title}\n", *lines(runs)]
    minutes = [f"{sum(step['seconds'] for step in run['steps']) / 60:.0f}" for run in runs]
    return "\n".join([*parts, f"\nMinutes of all steps, by seed: {', '.join(minutes)}"])


def picture(arms: dict[str, Sequence[dict]]) -> str:
    """Mean score by round with Student's interval over seeds, a line for every arm and decoding."""
    lines = {
        f"{decoding}{arm}": [
            (number, *gains(np.zeros((len(values), 1)), values[:, None])["mean"])
            for number, values in enumerate(score(runs, step).T)
        ]
        for arm, runs in arms.items()
        for step, decoding in DECODINGS.items()
    }
    return figures.standalone(figures.by_round("exact score by round", lines, "exact score, %"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep", help="one finished run in a small file")
    keeping.add_argument("run", type=Path)
    keeping.add_argument("file", type=Path)
    telling = commands.add_parser("tables", help="of all seeds kept")
    telling.add_argument("files", type=Path, nargs="+")
    telling.add_argument("--control", type=Path, nargs="+", default=[])
    telling.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.command == "keep":
        write_text(args.file, json.dumps(kept(read_run(args.run))) + "\n")
        return
    runs, control = ([json.loads(file.read_text()) for file in files] for files in (args.files, args.control))
    if control and [run["seed"] for run in runs] != [run["seed"] for run in control]:
        raise SystemExit("--control: found other seeds, expected those of the files")
    print(tables(runs, control))
    if args.picture:
        write_text(args.picture, picture({"": runs} | ({", control": control} if control else {})))


if __name__ == "__main__":
    main()
