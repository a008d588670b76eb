"""Makes failures on purpose, each beside the healthy run from the same start, and says whether the symptom shows.

    python -m benchmarks.failures --list
    python -m benchmarks.failures kl_off [critic ...] --run runs/llama2 --output_dir runs/failures

docs/troubleshooting.md has what came out. `--run` is a run of recipes/herd-nano/llama2.yaml or rounds.yaml; where it
lacks a step that is needed, llama2.yaml is run up to that step. What was measured before (OUTPUT_DIR/NAME.json) or
trained (OUTPUT_DIR/runs), from the same run with the same options, is not done again. The exit code is 1 where a
symptom is not seen.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from llama_align.runtime.files import write_text

from . import arms
from .catalogue import FAILURES
from .kinds import ALIASES, ARMS, Failure, Start
from .picture import draw


def started(run: Path, until: str) -> Start:
    """The run, with all steps up to the one that is needed.

    Raises:
        SystemExit: a step that failed.
    """
    if not Start(run).found(until):
        rounds = arms.RECIPES.parent / "rounds.py"
        plan = ["--plan", str(arms.RECIPES / "llama2.yaml"), "--output_dir", str(run)]
        plan += ["--until", ALIASES.get(until, until)]
        if subprocess.run([sys.executable, str(rounds), *plan], check=False).returncode:
            raise SystemExit(f"error: {run}: found no step {until}, which could not be made")
    return Start(run)


def made(failure: Failure, run: Path, output: Path, seeds: list[int]) -> dict:
    """Curves by arm and seed, now or before from the same run, YAML and options."""
    file, start = output / f"{failure.name}.json", None
    options = [failure.common, *(failure.arm(arm).options for arm in ARMS), failure.every]
    yaml = (arms.RECIPES / failure.config).read_text("utf-8")
    of = json.loads(json.dumps([str(run.resolve()), yaml, *options]))
    found = json.loads(file.read_text()) if file.exists() else {}
    if found.get("of") != of:
        found = {"of": of}
    for arm in ARMS:
        for seed in map(str, seeds):
            if seed not in found.setdefault(arm, {}):
                start = start or started(run, failure.until)
                found[arm][seed] = arms.run(failure, failure.arm(arm), start, int(seed), output / "runs")
                write_text(file, json.dumps(found))
    return {arm: {seed: found[arm][str(seed)] for seed in seeds} for arm in ARMS}


def main() -> int:
    shown = {"prog": "python -m benchmarks.failures", "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(description=__doc__, **shown)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of failures")
    parser.add_argument("--all", action="store_true", help="every failure")
    parser.add_argument("--list", action="store_true", help="their names and what is claimed of them")
    parser.add_argument("--run", type=Path, default=Path("runs/llama2"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/failures"))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of the page")
    args = parser.parse_args()
    if unknown := set(args.names) - set(FAILURES):
        parser.error(f"found {', '.join(sorted(unknown))}, expected some of {', '.join(FAILURES)}")
    if args.list or not (args.names or args.all):
        for failure in FAILURES.values():
            print(f"{failure.name:16} {failure.claim}")
        return 0
    unseen = 0
    for name in FAILURES if args.all else args.names:
        failure = FAILURES[name]
        seeds = args.seeds or list(failure.seeds)
        curves = made(failure, args.run, args.output_dir, seeds)
        write_text(args.output_dir / f"{name}.svg", draw(failure, curves))
        unseen += not told(failure, curves)
    return min(unseen, 1)


def told(failure: Failure, curves: dict) -> bool:
    """Prints where each curve ends, and whether the symptom shows with every seed."""
    for arm, of_seeds in curves.items():
        for seed, found in of_seeds.items():
            ends = ", ".join(f"{key} {found[key][0][1]:.3g} -> {found[key][-1][1]:.3g}" for key in failure.panels)
            print(f"{failure.name}, {arm}, seed {seed}: {ends}")
    seen = [failure.shows(curves["healthy"][seed], curves["ill"][seed]) for seed in curves["healthy"]]
    print(f"{failure.name}: {failure.claim}: seen with {sum(seen)} of {len(seen)} seeds", flush=True)
    return all(seen)


if __name__ == "__main__":
    raise SystemExit(main())
