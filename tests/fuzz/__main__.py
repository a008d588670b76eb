"""The long run: `python -m tests.fuzz --rows 7000 --configurations 3000 --checkpoints 1000 --seed 1`."""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports transformers or datasets

import transformers

from . import checkpoints, configurations, rows
from .trial import run_all

PARTS = {"rows": rows, "configurations": configurations, "checkpoints": checkpoints}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    for name in PARTS:
        parser.add_argument(f"--{name}", type=int, default=0, help="how many to try")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    faults = 0
    for name, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            report = run_all(part.trials(getattr(args, name), args.seed, Path(folder)), part.ACCEPTED)
            print(f"{name}, seed {args.seed}, {time.perf_counter() - started:.0f} s: {report}", flush=True)
            faults += len(report.faults)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
