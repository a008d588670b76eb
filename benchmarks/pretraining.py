"""Ways of pretraining on equally many tokens of real text: schedules, ramps, staged mixes, averages.

Measured are bits per byte held out, by source.

    python recipes/tokenizer.py --config recipes/herd-nano-scaling/tokenizer.yaml
    python benchmarks/pretraining.py --data ../shared/data --tokenizer runs/herd-nano-scaling/tokenizer \
        --output_dir runs/ways [--jobs 2] [--picture ways.svg]

Every arm sees the same tokens of each source, up to a batch; a seed draws weights and order, the same for all arms. The
runs are a plan of their own: stopped, the same command goes on.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from llama_align.report import laws as pictures
from llama_align.report.figures import standalone
from llama_align.rounds.ladder import run_steps
from llama_align.runtime.files import write_text
from llama_align.scaling.gains import gains

ROOT = Path(__file__).parents[1]
SOURCES = {
    "books": "books_standardebooks",
    "dialogues": "dialogue_oasst1_en_messages",
    "textbooks": "textbooks_openstax",
    "stories": "stories_african_pratham_en",
    "speeches": "speeches_us_presidents",
}
# from where on, by the digest of a document, it is held out; of few documents a larger share, or there would be none
HELDOUT = {"books": 0.985, "dialogues": 0.985, "textbooks": 0.985, "stories": 0.95, "speeches": 0.95}
# what the staged arms read first and last, and how much of their tokens is the last
EARLY = {"books": 0.4, "dialogues": 0.4, "textbooks": 0.1, "stories": 0.05, "speeches": 0.05}
GOOD = {"textbooks": 0.7, "books": 0.3}
LAST = 0.2
OVERALL = {name: (1 - LAST) * share + LAST * GOOD.get(name, 0.0) for name, share in EARLY.items()}
# few rows a step: of so few tokens many steps learn more
BATCH, CONTEXT, RATE = 1024, 256, 5.0e-3
COSINE = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
CONSTANT = {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {}}
BASELINE = "cosine"  # Llama 1: one mix, cosine to a tenth
# which arm each is told against beside the baseline
AGAINST = {
    "linear, averaged": "linear",
    "constant, averaged": "constant",
    "staged": "reversed",
    "staged, averaged": "staged",
    "decayed": "linear",
}


# where stages of one mix and batch begin and end in all arms: an order is drawn for each stage, so these arms read the
# same rows in the same order, and differ by seed together
PARTS = (0.2, 0.3, 0.3, LAST)


def stages(tokens: int, *parts: tuple[float, dict]) -> list[dict]:
    """Stages of shares of the tokens, with the mix of all where they name none."""
    common = {"batch": BATCH, "mixture": OVERALL}
    return [common | {"tokens": round(share * tokens)} | options for share, options in parts]


def arms(tokens: int) -> dict[str, dict]:
    """Options of recipes/pretrain.py by arm."""
    anneal = {"schedule": {"type": "linear"}}
    mean = {"weight_average": "mean", "weight_average_after": 0.9}

    def one_mix(*options: dict) -> dict:
        return {"stages": stages(tokens, *zip(PARTS, options or ({},) * len(PARTS), strict=True))}

    return {
        "cosine": COSINE | one_mix(),
        "linear": {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {}} | mean | one_mix(),
        "constant": CONSTANT | mean | {"weight_average_after": 0.8} | one_mix(),
        "decayed": CONSTANT | one_mix({}, {}, {}, anneal),
        "batch ramp": COSINE
        | {"stages": stages(tokens, (0.1, {"batch": BATCH // 4}), (0.3, {"batch": BATCH // 2}), (0.6, {}))},
        "window ramp": COSINE | one_mix({"window": 32}, {"window": 96}, {}, {}),
        "staged": CONSTANT
        | mean
        | {"stages": stages(tokens, (1 - LAST, {"mixture": EARLY}), (LAST, {"mixture": GOOD} | anneal))},
        # the good data first, then the rest and annealing on it: as many tokens of each, in the wrong order
        "reversed": CONSTANT
        | {
            "stages": stages(
                tokens,
                (LAST, {"mixture": GOOD}),
                (1 - 2 * LAST, {"mixture": EARLY}),
                (LAST, {"mixture": EARLY} | anneal),
            )
        },
    }


def common(data: Path, tokenizer: Path, work: Path) -> dict:
    """Options of all runs."""
    files = {name: str((data / f"pretrain/{file}.jsonl.xz").absolute()) for name, file in SOURCES.items()}
    return {
        "tokenizer": str(tokenizer.absolute()),
        "datasets": [
            {"path": path, "name": name, "part": [0, HELDOUT[name]], "epochs": 4} for name, path in files.items()
        ],
        "eval_datasets": [{"path": path, "name": name, "part": [HELDOUT[name], 1]} for name, path in files.items()],
        "tokens_dir": str((work / "tokens").absolute()),
        "size": "herd-nano",
        "size_overrides": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3},
        "context": CONTEXT,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "learning_rate": RATE,
        "warmup_steps": 0.05,
        "logging_steps": 50,
        "save_strategy": "no",
    }


def interval(values: np.ndarray, other: np.ndarray) -> str:
    """How much lower the first is than the other, paired by seed, with Student's interval."""
    mean, low, high = gains(values[:, None], other[:, None])["mean"]
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def losses(folders: dict[str, Path], names: list[str], seeds: list[int]) -> dict[str, np.ndarray]:
    """Bits per byte [seeds, sources] by arm, averaged weights as arms of their own."""
    found: dict[str, np.ndarray] = {}
    for name in names:
        runs = [
            json.loads((folders[f"{name.replace(' ', '-')}-{seed}"] / "metrics.json").read_text()) for seed in seeds
        ]
        kinds = {name: runs} | ({f"{name}, averaged": [run["average"] for run in runs]} if "average" in runs[0] else {})
        for kind, rows in kinds.items():
            found[kind] = np.array([[row["eval_bits_per_byte"][source] for source in SOURCES] for row in rows])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of each run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at work at once")
    parser.add_argument("--picture", type=Path, help="an SVG of the gains over the baseline")
    args = parser.parse_args()
    ways, shared = arms(args.tokens), common(args.data, args.tokenizer, args.output_dir)
    steps = [
        {"name": f"{name.replace(' ', '-')}-{seed}", "recipe": "pretrain", "set": shared | options | {"seed": seed}}
        for seed in args.seeds
        for name, options in ways.items()
    ]
    # the first run writes the token files that all others read
    run_steps(steps[:1], args.output_dir, ROOT / "recipes")
    folders = run_steps(steps, args.output_dir, ROOT / "recipes", args.jobs)
    found = losses(folders, list(ways), args.seeds)
    print(
        f"| way | {' | '.join(SOURCES)} | mean | lower than {BASELINE} | lower than |\n|{'---|' * (len(SOURCES) + 4)}"
    )
    for name, values in found.items():
        means = [f"{value:.3f}" for value in (*values.mean(0), values.mean())]
        against = AGAINST.get(name)
        told = [
            "" if name == BASELINE else interval(values.mean(1), found[BASELINE].mean(1)),
            f"{against}: {interval(values.mean(1), found[against].mean(1))}" if against else "",
        ]
        print(f"| {name} | {' | '.join(means + told)} |")
    print(f"\n| lower than {BASELINE} | {' | '.join(SOURCES)} |\n|{'---|' * (len(SOURCES) + 1)}")
    for name, values in found.items():
        if name != BASELINE:
            told = [interval(values[:, place], found[BASELINE][:, place]) for place in range(len(SOURCES))]
            print(f"| {name} | {' | '.join(told)} |")
    if args.picture:
        rows = {name: tuple(gains(v, found[BASELINE])["mean"]) for name, v in found.items() if name != BASELINE}
        write_text(args.picture, standalone(pictures.gains(f"gains over {BASELINE}", rows, "bits per byte")))


if __name__ == "__main__":
    main()
