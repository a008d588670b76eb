"""Does a margin by grade help a reward model? Llama 2's tables 27 and 28 on public graded pairs.

    python benchmarks/margins.py --base runs/herd-micro-real/sft --output runs/margins [--seeds 0 1 2 3 4] [--report]

Seed n trains on the prompts outside fold n of five and is measured on fold n, with every margin: over the seeds each
prompt is held out once, and margins are compared on the same pairs, heads and orders of rows. One model for all sets of
an objective. A finished run is not repeated, so several processes may take a seed each; --report prints the tables.
"""

import argparse
import json
import math
import statistics
from itertools import product
from pathlib import Path

from scipy.stats import t
from transformers import set_seed

from llama_align import recipe
from llama_align.data import GRADES, load_records, ranking_rows
from llama_align.data.splits import place
from llama_align.rewards import RewardScorer
from llama_align.runtime.files import write_text
from llama_align.trainers import HerdRewardConfig, HerdRewardTrainer, margin_table, score_pairs

FOLDER = "${LLAMA_ALIGN_SHARED:-../shared}/data/preference/"
FOLDS, CONTEXT, MARGINS = 5, 384, ("none", "small", "large")
GRADED = {"grades": {"grade4": {4: GRADES[0], 3: GRADES[1], 2: GRADES[2], 1: GRADES[3]}}}
SCORED = {"grades": {"score_gap": {GRADES[0]: 3, GRADES[1]: 1.5, GRADES[2]: 0.75, GRADES[3]: 0}}}
UNTIED = {"where": {"tie": False}, "skip": "count"}
SETS = {
    "helpfulness": {
        "Stack Exchange": {"path": "helpful_stackexchange_votes.jsonl.xz", **GRADED, "part": [0, 0.5]},
        "oasst1": {"path": "helpful_oasst1_ranked.jsonl.xz", **GRADED},
        "USR": {"path": "helpful_usr_dialogue_human1to5.jsonl.gz", **GRADED},
        "UltraFeedback": {"path": "helpful_ultrafeedback_scored.jsonl.xz", **SCORED, **UNTIED},
    },
    "safety": {
        "XSTest": {"path": "safety_xstest_pairs.jsonl.xz", **GRADED},
        "DiaSafety": {"path": "safety_diasafety_pairs.jsonl.gz", "default_grade": "better"},
        "HH": {"path": "safety_hh_harmless_binary.jsonl.xz", "default_grade": "slightly_better", "skip": "count"},
    },
}


def folds_of(objective: str) -> list[dict[str, list]]:
    """Records by set, for each fold; pairs whose chosen answer is the unsafe one left out."""
    folds = [{name: [] for name in SETS[objective]} for _ in range(FOLDS)]
    for name, source in SETS[objective].items():
        records, report = load_records(
            [source | {"path": FOLDER + source["path"], "name": name, "objective": objective}], "preference"
        )
        print(report)
        for record in records:
            if not record.prefers_unsafe:
                folds[int(place(record, seed=1) * FOLDS)][name].append(record)
    return folds


def train(options, folds: list[dict[str, list]], margin: str, seed: int, folder: str) -> list[dict]:
    """Scores of the pairs of fold `seed`, from a model trained on the other folds, or on a share of their prompts."""
    set_seed(seed)
    tokenizer = recipe.load_tokenizer(options.base)
    config = HerdRewardConfig(
        output_dir=folder,
        margin=margin,
        per_device_train_batch_size=16,
        num_train_epochs=1,  # Llama 2: one epoch
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=0.05,
        weight_decay=0.1,
        bf16=True,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        gradient_checkpointing=False,
        seed=seed,
        use_cpu=True,
    )
    others = [r for n, fold in enumerate(folds) if n != seed % FOLDS for records in fold.values() for r in records]
    others = [record for record in others if place(record, seed=2) < options.share]
    rows, _ = ranking_rows(others, tokenizer, CONTEXT, margin_table(margin), "drop", seed=seed)
    trainer = HerdRewardTrainer(
        recipe.load_model(options.base, "reward", tokenizer),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    scorer, found = RewardScorer(trainer.model, tokenizer.pad_token_id), []
    for name, records in folds[seed % FOLDS].items():
        scored = score_pairs(scorer, ranking_rows(records, tokenizer, CONTEXT, None, "drop")[0])
        lengths = [[scored.lengths[answer] for answer in pair] for pair in scored.pairs]
        columns = zip(scored.chosen, scored.rejected, scored.grades, lengths, strict=True)
        found += [
            {"set": name, "grade": grade, "chosen": chosen, "rejected": rejected, "lengths": pair}
            for chosen, rejected, grade, pair in columns
        ]
    return found


def wins(pairs: list[dict], longer: bool = False) -> float:
    """Share of pairs judged right, ties half; `longer`: were the longer answer always preferred."""
    ends = [pair["lengths"] if longer else (pair["chosen"], pair["rejected"]) for pair in pairs]
    return sum((a > b) + 0.5 * (a == b) for a, b in ends) / len(ends)


def interval(values: list[float]) -> str:
    """Mean over seeds and half the width of Student's 95% interval, in percent.

    Folds share training pairs, so seeds are not quite independent and the interval is a little too narrow.
    """
    spread = statistics.stdev(values) / math.sqrt(len(values)) * t.ppf(0.975, len(values) - 1)
    return f"{100 * statistics.mean(values):.1f} ± {100 * spread:.1f}"


def difference(a: list[float], b: list[float]) -> str:
    return interval([x - y for x, y in zip(a, b, strict=True)])


def groups_of(objective: str):
    """Rows of the table, a name and which pairs are in it: grades over all sets, then within each set."""
    yield "all", lambda pair: True
    for grade in GRADES:
        yield grade.replace("_", " "), lambda pair, grade=grade: pair["grade"] == grade
    for name, source in SETS[objective].items():
        yield name, lambda pair, name=name: pair["set"] == name
        for grade in GRADES if "grades" in source else ():
            both = (name, grade)
            yield f"{name}, {grade.replace('_', ' ')}", lambda pair, both=both: (pair["set"], pair["grade"]) == both


def report(output: Path) -> None:
    """Accuracy, the longer answer's, the difference, and what a margin changes on the same folds."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(output.glob("*/*.json"))}
    for objective in SETS:
        margins = [margin for margin in MARGINS if any(name.startswith(f"{objective}-{margin}-") for name in runs)]
        seeds = [n for n in range(100) if all(f"{objective}-{margin}-{n}" in runs for margin in margins)]
        if "none" not in margins or len(seeds) < 2:
            continue
        print(f"\n### {objective}, {len(seeds)} seeds\n")
        gains = ["none - longer", *(f"{margin} - none" for margin in margins[1:])]
        print("| pairs | n | longer wins | " + " | ".join([*margins, *gains]) + " |")
        print("|---|---|---|" + "---|" * (2 * len(margins)))
        for name, within in groups_of(objective):
            chosen = {m: [[p for p in runs[f"{objective}-{m}-{n}"] if within(p)] for n in seeds] for m in margins}
            if not all(chosen["none"]):
                continue
            found = {m: [wins(pairs) for pairs in of_seeds] for m, of_seeds in chosen.items()}
            longer = [wins(pairs, longer=True) for pairs in chosen["none"]]
            cells = [name, str(sum(map(len, chosen["none"]))), interval(longer), *map(interval, found.values())]
            cells += [difference(found["none"], longer), *(difference(found[m], found["none"]) for m in margins[1:])]
            print("| " + " | ".join(cells) + " |")
        folds = {m: [runs[f"{objective}-{m}-{n}"] for n in seeds] for m in margins}
        report_length(folds)
        report_trend(folds)


def report_length(folds: dict[str, list[list[dict]]]) -> None:
    """How far a model goes by length: answers of equal length left out."""
    print("\n| margin | longer answer scored higher | right where the longer is preferred | where the shorter is |")
    print("|---|---|---|---|")
    for margin, of_seeds in folds.items():
        columns = []
        for pairs in of_seeds:
            longer, shorter = ([p for p in pairs if sign * (p["lengths"][0] - p["lengths"][1]) > 0] for sign in (1, -1))
            count = len(longer) + len(shorter)
            higher = (wins(longer) * len(longer) + (1 - wins(shorter)) * len(shorter)) / count
            columns.append((higher, wins(longer), wins(shorter)))
        print(f"| {margin} | " + " | ".join(interval(list(values)) for values in zip(*columns, strict=True)) + " |")


def report_trend(folds: dict[str, list[list[dict]]]) -> None:
    """Llama 2: a large margin helps clear pairs and hurts close ones. What it gives the first more than the last."""
    grades = [grade for grade in GRADES if all(any(p["grade"] == grade for p in pairs) for pairs in folds["none"])]
    ends = (grades[0], grades[-1])
    gaps = {
        margin: [
            wins([p for p in pairs if p["grade"] == ends[0]]) - wins([p for p in pairs if p["grade"] == ends[1]])
            for pairs in of_seeds
        ]
        for margin, of_seeds in folds.items()
    }
    for margin in list(folds)[1:]:
        found = difference(gaps[margin], gaps["none"])
        print(f"\n{margin}: accuracy on {ends[0]} gains {found} more than on {ends[1]}, against no margin")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="chat checkpoint the reward models start from")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--objectives", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--margins", nargs="+", choices=MARGINS, default=list(MARGINS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--share", type=float, default=1.0, help="of the training prompts")
    parser.add_argument("--report", action="store_true", help="print the tables of what has been run")
    options = parser.parse_args()
    if options.report:
        report(options.output)
    else:
        run(options)


def run(options) -> None:
    settings = {"base": options.base, "learning_rate": options.learning_rate, "share": options.share}
    path = options.output / "settings.json"
    if path.exists() and json.loads(path.read_text()) != settings:
        raise SystemExit(f"{path}: found {path.read_text()}, expected {json.dumps(settings)}: take another --output")
    write_text(path, json.dumps(settings))
    for objective in options.objectives:
        folds = folds_of(objective)
        for seed, margin in product(options.seeds, options.margins):
            name = f"{objective}-{margin}-{seed}"
            path = options.output / objective / f"{name}.json"
            if path.exists():
                continue
            pairs = train(options, folds, margin, seed, str(options.output / name))
            write_text(path, json.dumps(pairs))
            print(f"{name}: {wins(pairs):.3f} of {len(pairs)}, longer {wins(pairs, longer=True):.3f}", flush=True)


if __name__ == "__main__":
    main()
