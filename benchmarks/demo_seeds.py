"""The demo or a programme over several seeds, on this processor and as one with AVX2 alone would run it: mean changes.

    python benchmarks/demo_seeds.py --output_dir runs/seeds [--seeds 0 1 2] [--kinds avx512 avx2]
    python benchmarks/demo_seeds.py --output_dir runs/llama2 --plan recipes/herd-nano/llama2.yaml --kinds avx2

Each chain is `recipes/rounds.py --seed SEED`, which draws everything anew, the world included; one at a time, each
resumed where it stopped. The tables are those of docs/results/herd-nano.md.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
KINDS = {"avx512": {}, "avx2": AVX2}
RATES = ("false_refusal_rate", "violation_rate")
DECODINGS = {"evaluate": "greedy", "evaluate_sampled": "temperature 1"}
# 97.5% points of Student's t, by degrees of freedom
T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def run(folder: Path, seed: int, kind: str, plan: str, until: str | None) -> None:
    """One chain, its output in `<folder>.log`."""
    command = [sys.executable, str(ROOT / "recipes/rounds.py"), "--plan", plan, "--output_dir", str(folder)]
    command += ["--seed", str(seed)] + (["--until", until] if until else [])
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | KINDS[kind] | {"OMP_WAIT_POLICY": "PASSIVE"}
    with folder.with_suffix(".log").open("ab") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        sys.exit(f"{folder.with_suffix('.log')}: the chain ended with exit code {code}")


def metrics_of(folder: Path, step: str) -> dict:
    """metrics.json of a run's step, found by run.json."""
    steps = {row["name"]: row for row in json.loads((folder / "run.json").read_text())["steps"]}
    return json.loads((folder / steps[step]["directory"] / "metrics.json").read_text())


def interval(values: list[float]) -> str:
    """Mean of runs with Student's 95% interval, in points."""
    if len(values) < 2 or len(values) - 1 not in T975:
        return f"{statistics.mean(values):+.1f}"
    half = T975[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def table(runs: dict[str, Path], step: str) -> list[str]:
    """A Markdown table of one decoding: scores by run, then the mean change from the row above."""
    rows = {name: {row["row"]: row for row in metrics_of(folder, step)["rows"]} for name, folder in runs.items()}
    stages = list(next(iter(rows.values())))
    lines = [f"| stage | {' | '.join(runs)} | mean change | false refusals % | violations % |"]
    lines.append("|---" * (len(runs) + 4) + "|")
    score = {stage: [100 * found[stage]["score"]["mean"] for found in rows.values()] for stage in stages}
    for above, stage in zip([None, *stages], stages, strict=False):
        cells = [f"{value:.1f}" for value in score[stage]]
        change = "" if above is None else interval([b - a for a, b in zip(score[above], score[stage], strict=True)])
        safety = [statistics.mean(100 * found[stage]["safety"][rate] for found in rows.values()) for rate in RATES]
        lines.append(f"| {stage} | {' | '.join(cells)} | {change} | {safety[0]:.1f} | {safety[1]:.1f} |")
    return lines


def chosen(runs: dict[str, Path]) -> list[str]:
    """Which models each run kept, with the candidates' scores on the prompts they were chosen by."""
    lines = []
    for name, folder in runs.items():
        steps = json.loads((folder / "run.json").read_text())["steps"]
        for step in (row["name"] for row in steps if row["recipe"] == "choose"):
            found = metrics_of(folder, step)
            scores = ", ".join(f"{row['name']} {100 * row['score']:.1f}" for row in found["candidates"])
            lines.append(f"- {name}, {step}: **{found['chosen']}** ({scores})")
    return lines


def report(runs: dict[str, Path], kinds: Iterable[str]) -> str:
    """Tables of each kind of processor and of all runs, then the choices."""
    parts = []
    for kind in [*kinds, ""]:
        of_kind = {name: folder for name, folder in runs.items() if name.startswith(kind)}
        for step, decoding in DECODINGS.items():
            parts += [f"### {kind or 'all'}, {decoding}", *table(of_kind, step)]
    return "\n".join([*parts, "### chosen", *chosen(runs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--plan", default=str(ROOT / "recipes/herd-nano/rounds.yaml"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--until", help="the last step to run; no tables then")
    args = parser.parse_args()
    runs = {f"{kind}-{seed}": args.output_dir / f"{kind}-{seed}" for seed in args.seeds for kind in args.kinds}
    for name, folder in runs.items():
        kind, seed = name.split("-")
        run(folder, int(seed), kind, args.plan, args.until)
    if args.until is None:
        text = report(runs, args.kinds)
        (args.output_dir / "tables.md").write_text(text + "\n")
        print(text)


if __name__ == "__main__":
    main()
