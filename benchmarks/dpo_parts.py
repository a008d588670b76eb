"""What each of Llama 3's two changes to DPO does in the sandbox: format tokens masked, NLL of the chosen answer.

    python benchmarks/dpo_parts.py --run runs/demo --output runs/dpo_parts [--rates 1e-4 3e-4 1e-3] [--seeds 0 1 2]

Four variants of one DPO step start from the SFT checkpoint of a finished `make demo` and its first preferences, which
are over that checkpoint's own answers. Printed by learning rate: how the log-probability of the chosen answers moved
in training (nats per answer, over the tokens of the ratio: all with "plain" and "NLL", content with the others), and,
of answers sampled to held-out prompts at temperature 1, the share without an end of turn, of wrong answers that are
empty or end after a letter or two, of repetitive tails, their length and how many are right. Means over the seeds,
lowest and highest in brackets. What is done is not repeated.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import yaml
from ppo import found

RECIPES = Path(__file__).parent.parent / "recipes"
WANTED = "wanted.yaml"
VARIANTS = {
    "plain": {"mask_format_tokens": False, "nll_coefficient": 0.0},
    "masked": {"mask_format_tokens": True, "nll_coefficient": 0.0},
    "NLL": {"mask_format_tokens": False, "nll_coefficient": 0.2},
    "masked, NLL": {"mask_format_tokens": True, "nll_coefficient": 0.2},
}


def launch(recipe: str, config: dict) -> None:
    folder = Path(config["output_dir"])
    path = folder / WANTED
    if (folder / "metrics.json").exists() and path.read_text() == yaml.safe_dump(config):
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, str(RECIPES / f"{recipe}.py"), "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"ACCELERATE_USE_CPU": "true"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def train(run: Path, output: Path, rate: float, seed: int) -> dict[str, str]:
    """Checkpoints of all variants, by name."""
    base = yaml.safe_load((RECIPES / "herd-nano" / "dpo.yaml").read_text())
    start = {
        "model_name_or_path": found(run, "sft"),
        "datasets": [{"path": f"{found(run, 'annotate')}/preferences.jsonl"}],
        "learning_rate": rate,
        "num_train_epochs": 4,
        "seed": seed,
    }
    folders = {name: str(output / f"{rate:g}-{seed}" / name.replace(", ", "_")) for name in VARIANTS}
    for name, options in VARIANTS.items():
        launch("dpo", base | start | options | {"output_dir": folders[name]})
    return folders


def measure(run: Path, output: Path, rate: float, seed: int, models: dict[str, str]) -> dict[str, dict]:
    """What is printed, by variant."""
    folder = output / f"{rate:g}-{seed}" / "evaluate"
    config = yaml.safe_load((RECIPES / "herd-nano" / "evaluate.yaml").read_text())
    config |= {"output_dir": str(folder), "models": {"start": found(run, "sft")} | models, "baseline": "start"}
    config |= {"datasets": [{"path": f"{found(run, 'sandbox')}/heldout.jsonl"}], "texts": [], "reward_models": {}}
    launch("evaluate", config | {"temperature": 1.0, "max_new_tokens": 64, "seed": seed})
    row_of = {}
    for name, path in ({"start": None} | models).items():
        row = json.loads((folder / f"{name}.json").read_text())
        row_of[name] = {
            "no end": row["endings"]["missing_end"],
            "broken off": broken_off(folder / f"samples_{name}.jsonl"),
            "repetitive": row["endings"]["repetitive"],
            "tokens": row["length"]["mean_tokens"],
            "right": row["score"]["mean"],
            "chosen": 0.0 if path is None else moved(Path(path)),
        }
    return row_of


def broken_off(path: Path) -> float:
    """Share of answers that are empty or end after one or two characters, and are neither right nor a number."""
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    texts = [answer["completion"].strip() for answer in answers if answer["finished"] and not answer["helpful"]]
    return sum(len(text) <= 2 and not text.isdigit() for text in texts) / len(answers)


def moved(path: Path) -> float:
    """Log-probability of the chosen answers against the reference's, mean of the last five logs, nats per answer."""
    rows = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    rewards = [row["rewards/chosen"] for row in rows if "rewards/chosen" in row]
    return statistics.mean(rewards[-5:]) / yaml.safe_load((path / WANTED).read_text())["beta"]


def table(rate: float, of_seeds: list[dict[str, dict]]) -> None:
    print(f"\n### learning rate {rate:g}, {len(of_seeds)} seeds\n")
    columns = {"chosen": "{:+.2f}", "no end": "{:.1%}", "broken off": "{:.1%}", "repetitive": "{:.1%}"}
    columns |= {"tokens": "{:.1f}", "right": "{:.1%}"}
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in of_seeds[0]:
        cells = []
        for column, form in columns.items():
            values = [found[name][column] for found in of_seeds]
            low, mean, high = (form.format(f(values)) for f in (min, statistics.mean, max))
            cells.append(f"{mean} [{low}, {high}]")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="directory of a finished make demo")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    for rate in options.rates:
        of_seeds = []
        for seed in options.seeds:
            models = train(options.run, options.output, rate, seed)
            of_seeds.append(measure(options.run, options.output, rate, seed, models))
        table(rate, of_seeds)


if __name__ == "__main__":
    main()
