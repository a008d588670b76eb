"""What steps of one plan cost in processes of their own and forked from one, and whether they leave the same bytes.

    python benchmarks/executors.py
    python benchmarks/executors.py --plan recipes/herd-nano/rounds.yaml --until sft

Both runs write to the same path, one after the other, since files may name their folder. Without --plan it is the plan
of fifteen small steps that `tests/rounds/kills.py` kills. Seconds are those of `step.json`: a forked step's begin when
it is asked for, so that the first one's hold the imports. Beside other work compare those of the
processor.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.rounds.small import plan  # noqa: E402


def run(path: Path, place: Path, executor: str, until: str | None) -> tuple[dict[str, dict], float, float]:
    """Runs a plan; every step's record by its folder, the seconds of it all, and those of the processor."""
    folder, script = place / "run", ROOT / "recipes" / "rounds.py"
    options = ["--plan", path, "--output_dir", folder, "--executor", executor]
    options += ["--until", until] if until else []
    begun, worked = time.perf_counter(), processor()
    with (place / f"{executor}.log").open("w") as log:
        subprocess.run([sys.executable, script, *options], check=True, cwd=ROOT, stdout=log, stderr=log)
    seconds = time.perf_counter() - begun
    records = {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/step.json")}
    folder.rename(place / executor)
    return records, seconds, processor() - worked


def processor() -> float:
    """Seconds that the processes below this one have worked."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, help="instead of the fifteen small steps")
    parser.add_argument("--until", help="no step behind this one")
    parser.add_argument("--folder", type=Path, help="default: one that is removed afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (args.folder or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        path = args.plan
        if path is None:
            path = place / "plan.yaml"
            path.write_text(yaml.safe_dump(plan()))
        (local, whole, worked), (inline, shared, works) = (
            run(path, place, name, args.until) for name in ("local", "inline")
        )
    print("| step | local, s | inline, s | saved, s |\n|---|---|---|---|")
    for name in sorted(local, key=lambda name: local[name]["seconds"]):
        one, other = local[name]["seconds"], inline[name]["seconds"]
        print(f"| {name[:-11]} | {one:.1f} | {other:.1f} | {one - other:.1f} |")
    print(f"| all, with the manager | {whole:.1f} | {shared:.1f} | {whole - shared:.1f} |")
    print(f"| the processor's | {worked:.1f} | {works:.1f} | {worked - works:.1f} |")
    print(f"\nlocal/inline {whole / shared:.2f}, of the processor {worked / works:.2f}")
    print(
        f"saved a step: {(whole - shared) / len(local):.1f} s, of the processor {(worked - works) / len(local):.1f} s"
    )
    files = [(name, file, row["sha256"]) for name, record in local.items() for file, row in record["outputs"].items()]
    differ = [
        f"{name}/{file}" for name, file, sha in files if inline[name]["outputs"].get(file, {}).get("sha256") != sha
    ]
    more = [name for name in local if inline[name]["outputs"].keys() != local[name]["outputs"].keys()]
    print(f"{len(files)} files compared, {len(differ)} differ", *differ, *more, sep="\n  ")
    sys.exit(bool(differ or more))


if __name__ == "__main__":
    main()
