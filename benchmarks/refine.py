"""Whether refining demonstrations helps in the sandbox: SFT on noisy ones, after each rule, and on as many by chance.

    python benchmarks/refine.py --made runs/llama2 --output_dir runs/refine

Noise is planted (wrong answers, near copies, apologies, emoji, exclamation marks) in demonstrations of the world of a
run made by recipes/herd-nano/llama2.yaml as far as `safety-1`; SFT starts from its pretrained model and the reward
models are its own. Seeds draw other demonstrations, other noise and another order of training; the world and the
pretrained model are the same. All arms have the same number of updates. Table in docs/results/refine.md.
"""

import argparse
import json
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import yaml
from demo_seeds import interval, metrics_of

from llama_align import recipe
from llama_align.data import Demonstration, write_jsonl
from llama_align.refine import rules
from llama_align.refine.apply import refine
from llama_align.refine.rows import Row
from llama_align.refine.scores import Scores
from llama_align.rewards.score_cache import CachedRewards
from llama_align.sandbox import DemonstrationNoise, World, demonstrations

ROOT = Path(__file__).parents[1]
CLEAN = [{"rule": "clean", "exclamations": 0}, {"rule": "balance", "share": 0.05}]
QUALITY = {"rule": "quality", "by": ["reward"], "top": 0.5}
ALIKE = {"rule": "distinct", "similarity": 0.95, "dimensions": 64}
FEW = [QUALITY | {"drop": False}, {"rule": "best", "share": 0.125}]
ARMS = {
    "clean and balance": CLEAN,
    "distinct": [ALIKE],
    "quality, half": [QUALITY],
    "best eighth": FEW,
    "clean, balance, quality, distinct": [*CLEAN, QUALITY, ALIKE],
}
SHARES = {"wrong": 0.3, "apology": 0.2, "emoji": 0.2, "shout": 0.3, "copies": 0.2}


def noisy(world: World, seed: int, count: int) -> list[Demonstration]:
    """`count` demonstrations as hurried people write them, more of them wrong, and near copies of a few."""
    rng = random.Random(f"{seed}/noise")
    rows = list(demonstrations(world, seed, count, DemonstrationNoise(wrong_answer=SHARES["wrong"])))
    few = rng.sample(rows, max(1, count // 50))
    rows += [rng.choice(few) for _ in range(round(SHARES["copies"] * count))]
    rng.shuffle(rows)
    return [Demonstration([row["messages"][0], _spoiled(row["messages"][1], rng)], "noisy") for row in rows]


def _spoiled(answer: dict, rng: random.Random) -> dict:
    text = answer["content"]
    if rng.random() < SHARES["shout"]:
        text = text.removesuffix(".") + rng.choice(("!", "!!!"))
    if rng.random() < SHARES["apology"]:
        text = f"I'm sorry. {text}"
    return answer | {"content": f"{text} \U0001f600" if rng.random() < SHARES["emoji"] else text}


def arms_of(noisy_rows: list[Demonstration], scores: Scores, seed: int, arms: list[str]) -> dict[str, list[Row]]:
    """The data of every arm: all, after each rule, and as many by chance."""

    def after(listed: list[dict]) -> list[Row]:
        rows = [Row(number, record) for number, record in enumerate(noisy_rows)]
        return refine(rows, rules.parse(listed), scores, None, seed)[0]

    found = {"raw": [Row(number, record) for number, record in enumerate(noisy_rows)]}
    for name, listed in ((name, ARMS[name]) for name in arms):
        found[name] = after(listed)
        if QUALITY["rule"] in {rule["rule"] for rule in listed}:  # the others drop little, or change more
            found[f"{name}: chance"] = after([{"rule": "chance", "count": len(found[name])}])
    return found


def steps_of(args: argparse.Namespace, seed: int, folder: Path, sizes: dict[str, int]) -> list[dict]:
    """SFT on the data of every arm, and one evaluation of all."""
    names = {arm: f"arm{number}-{seed}" for number, arm in enumerate(sizes)}
    config = str(ROOT / "recipes/herd-nano/sft.yaml")
    start = {"model_name_or_path": str(args.pretrain), "max_steps": args.steps, "seed": seed}
    steps = [
        {
            "name": name,
            "recipe": "sft",
            "config": config,
            "set": start | {"datasets": [{"path": f"{folder}/{name}.jsonl"}]},
        }
        for name in names.values()
    ]
    heldout = {"path": str(args.sandbox / "heldout.jsonl"), "limit": args.heldout}
    measured = {"models": {name: f"{{{name}}}" for name in names.values()}, "datasets": [heldout], "judge": "sandbox"}
    options = {"max_new_tokens": 32, "temperature": 0.0}
    return [*steps, {"name": f"evaluate-{seed}", "recipe": "evaluate", "set": measured | options}]


def table(run: Path, seeds: list[int], sizes: list[dict[str, int]]) -> list[str]:
    """Scores by arm and seed, and the mean change from raw and from as many by chance, paired by seed."""
    arms = list(sizes[0])
    score: dict[str, list[float]] = {arm: [] for arm in arms}
    violations: dict[str, list[float]] = {arm: [] for arm in arms}
    for seed in seeds:
        rows = {row["row"]: row for row in metrics_of(run, f"evaluate-{seed}")["rows"]}
        for number, arm in enumerate(arms):
            row = rows[f"arm{number}-{seed}"]
            score[arm].append(100 * row["score"]["mean"])
            violations[arm].append(100 * row["safety"]["violation_rate"])
    lines = [
        "| demonstrations | how many | as asked %, by seed | on raw | on chance | violations % |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms:
        on = {"raw": arm != "raw" and "raw", "chance": f"{arm}: chance"}
        changes = [
            interval([a - b for a, b in zip(score[arm], score[other], strict=True)]) if other in score else ""
            for other in on.values()
        ]
        by_seed = " / ".join(f"{value:.1f}" for value in score[arm])
        many = " / ".join(str(found[arm]) for found in sizes)
        mean = sum(violations[arm]) / len(seeds)
        lines.append(f"| {arm} | {many} | {by_seed} | {changes[0]} | {changes[1]} | {mean:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--made", required=True, type=Path, help="a run of llama2.yaml, to safety-1 at least")
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help="of those above")
    parser.add_argument("--count", type=int, default=2000, help="demonstrations before copies")
    parser.add_argument("--steps", type=int, default=60, help="updates of every SFT")
    parser.add_argument("--heldout", type=int, default=500, help="held-out instructions")
    args = parser.parse_args()
    made = {
        row["name"]: (args.made / row["directory"]).resolve()
        for row in json.loads((args.made / "run.json").read_text())["steps"]
    }
    args.pretrain, args.sandbox = made["pretrain"], made["sandbox"]
    settings = yaml.safe_load((made["sandbox"] / "config.yaml").read_text())
    world = World.generate(settings["seed"], settings["people"], settings["places"])
    judges = {name: str(made[f"{name}-1"]) for name in ("helpfulness", "safety")}
    rewards = CachedRewards(
        judges, partial(recipe.load_reward_model), 0.15, args.output_dir / "scores", 512, dtype="auto"
    )
    contexts = {name: (recipe.load_tokenizer(path), recipe.context_of(path)) for name, path in judges.items()}
    scores = Scores(rewards, None, None, [], "helpfulness", contexts, "error")
    folder, steps, sizes = (args.output_dir / "data").resolve(), [], []
    for seed in args.seeds:
        found = arms_of(noisy(world, seed, args.count), scores, seed, args.arms)
        for number, rows in enumerate(found.values()):
            write_jsonl(folder / f"arm{number}-{seed}.jsonl", [row.record for row in rows])
        sizes.append({arm: len(rows) for arm, rows in found.items()})
        steps += steps_of(args, seed, folder, sizes[-1])
    plan = args.output_dir / "plan.yaml"
    plan.write_text(
        yaml.safe_dump({"name": "refine", "seed": 0, "executor": "inline", "steps": steps}, sort_keys=False)
    )
    command = [
        sys.executable,
        str(ROOT / "recipes/rounds.py"),
        "--plan",
        str(plan),
        "--output_dir",
        f"{args.output_dir}/run",
    ]
    if code := subprocess.run(command).returncode:
        sys.exit(code)
    text = "\n".join(table(args.output_dir / "run", args.seeds, sizes))
    (args.output_dir / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
