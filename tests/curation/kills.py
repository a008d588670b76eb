"""Kills a run of the curation's planted corpus at random moments and compares what it leaves with an undisturbed run.

    python -m tests.curation.kills --kills 20 --seed 0

The moments are drawn over the time that is left, so that a kill falls into any stage. Exit code 1 where a byte differs.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def killed(start: Callable[[], None], kills: int, seconds: float, seed: int) -> int:
    """Runs `start` in a process that is killed with its children, up to `kills` times, then until it ends.

    seconds: what an undisturbed run takes here. Returns how many kills there were; raises AssertionError for a run
    that ended in an error.
    """
    draw, done = random.Random(seed), 0
    while True:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            code = 1
            try:
                start()
                code = 0
            finally:
                os._exit(code)
        deadline = time.monotonic() + draw.uniform(
            0, seconds / max(1, kills)
        )  # so that it has not ended before the last
        while done >= kills or time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert status == 0, "a run that was not killed ended in an error"
                return done
            time.sleep(0.005)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1


def main() -> None:
    from llama_align.curation.executors import Executor

    from .test_pipeline import ONE, content, pipeline, plant

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        made = plant(Path(work) / "planted")
        started = time.monotonic()
        pipeline(made, Path(work) / "undisturbed").run(ONE)
        seconds = time.monotonic() - started
        two = Executor("local", tasks=2, workers=2)
        there = Path(work) / "killed"
        done = killed(lambda: pipeline(made, there).run(two), args.kills, seconds, args.seed)
        wanted, found = content(Path(work) / "undisturbed"), content(there)
        different = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        print(f"undisturbed {seconds:.1f} s; {done} kills; {len(wanted)} files, different: {different or 'none'}")
        raise SystemExit(bool(different) or done < args.kills)


if __name__ == "__main__":
    main()
