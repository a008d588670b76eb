"""Start-up: seconds from a command to its first answer, in this checkout and in others.

    python benchmarks/startup.py [--runs 5] [CHECKOUT ...]

For each checkout, with the same Python: `--version` and `--help` of the command, a recipe's `--help`, its first error
in a YAML, and `import llama_align`. Least and median of the runs, in seconds of the clock and of the
processor; the latter says more where other work goes on.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def seconds(command: list[str], environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Of the clock and of the processor that one run takes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used


def commands(wrong: Path) -> dict[str, list[str]]:
    """What is measured: name -> arguments of Python."""
    return {
        "llama-align --version": ["-c", "import sys; from llama_align.cli import main; sys.exit(main(['--version']))"],
        "llama-align --help": ["-c", "import sys; from llama_align.cli import main; sys.exit(main(['--help']))"],
        "recipes/dpo.py --help": ["recipes/dpo.py", "--help"],
        "recipes/dpo.py, a wrong key in its YAML": ["recipes/dpo.py", "--config", str(wrong)],
        "import llama_align": ["-c", "import llama_align"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, default=[], metavar="CHECKOUT", help="beside this one")
    parser.add_argument("--runs", type=int, default=5, help="of each (default: 5)")
    options = parser.parse_args()
    print("| command | checkout | clock, least | median | processor, least | median |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.yaml"
        wrong.write_text("output_dir: out\nlearning_rte: 1\n")
        for name, arguments in commands(wrong).items():
            for checkout in (*options.checkouts, ROOT):
                environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"}
                runs = [seconds([sys.executable, *arguments], environment, checkout) for _ in range(options.runs)]
                kinds = zip(*runs, strict=True)
                cells = [f"{each:.2f}" for kind in kinds for each in (min(kind), statistics.median(kind))]
                print(f"| {name} | {checkout.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
