"""How well laws of a mix fitted on runs of 1M parameters rank runs of 60M, on RegMix's published runs.

    python benchmarks/mixing_regmix.py --runs 64 --draws 10 --output results/regmix.json

Per draw so many of the 512 runs of 1M are drawn; each law then orders the 256 mixes of the runs of 60M by their loss on
one target. LightGBM stands beside where it is installed, else scikit-learn's gradient boosting under its own name.
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np

from llama_align.scaling import mixing

SHARED = Path(os.environ.get("LLAMA_ALIGN_SHARED", "../shared")) / "data" / "scaling" / "regmix"


def table(folder: Path, name: str) -> tuple[list[str], np.ndarray]:
    """Column names and numbers of a CSV, its first column, the index, left out."""
    path = folder / f"{name}.csv"
    heads = path.read_text().splitlines()[0].split(",")[1:]
    return heads, np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:]


def boosting():
    """Name and maker of the tree ensemble: RegMix's settings of LightGBM (regression, 1000 trees, rate 0.01)."""
    try:
        from lightgbm import LGBMRegressor

        return "LightGBM", lambda n: LGBMRegressor(
            n_estimators=1000, learning_rate=0.01, min_child_samples=max(3, n // 20), num_threads=1, verbosity=-1
        )
    except ImportError:
        from sklearn.ensemble import HistGradientBoostingRegressor

        return (
            "HistGradientBoosting (scikit-learn; LightGBM is not installed)",
            lambda n: HistGradientBoostingRegressor(max_iter=300, learning_rate=0.05, min_samples_leaf=max(3, n // 20)),
        )


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of RegMix's CSVs")
    parser.add_argument("--runs", type=int, nargs="+", default=[64], help="runs of 1M to fit on")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--target", default="pile_cc", help="part of a column's name")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    _, mixes = table(args.data, "train_mixture_1m")
    heads, losses = table(args.data, "train_pile_loss_1m")
    _, new_mixes = table(args.data, "test_mixture_60m")
    _, new_losses = table(args.data, "test_pile_loss_60m")
    (column,) = [i for i, head in enumerate(heads) if args.target in head]
    name, tree = boosting()
    found = {}
    print(f"| runs | law | Spearman, mean of {args.draws} draws | lowest | highest |\n|---|---|---|---|---|")
    for runs in args.runs:
        rows = {"linear": [], name: [], "c + exp(t·r)": []}
        for draw in range(args.draws):
            chosen = np.random.default_rng(draw).choice(len(mixes), runs, replace=False)
            x, y = mixes[chosen], losses[chosen, column]
            predicted = {
                "linear": mixing.shares(new_mixes) @ mixing.linear(x, y),
                name: tree(runs).fit(x, y).predict(new_mixes),
                "c + exp(t·r)": mixing.fit(x, y).predict(new_mixes),
            }
            for law, values in predicted.items():
                rows[law].append(mixing.rank_correlation(values, new_losses[:, column]))
        for law, values in rows.items():
            print(f"| {runs} | {law} | {np.mean(values):.3f} | {min(values):.3f} | {max(values):.3f} |", flush=True)
        found[runs] = rows
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"target": heads[column], "spearman": found}, indent=1))


if __name__ == "__main__":
    main()
