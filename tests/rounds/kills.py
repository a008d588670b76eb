"""Kills a run of fifteen small steps again and again, and compares its end with an undisturbed run's, byte for byte.

    python -m tests.rounds.kills --kills 100 --seed 0

Managers and steps are real processes that end by SIGKILL: the manager alone, the step alone, or the whole group, at any
moment of a step or between its last checkpoint and `step.json`. They are forked from this one, which has imported all
they need; `--fresh` starts new interpreters instead, as a user does, ten times slower, and `--executor inline` has each
manager fork its steps from a nursery of its own. After each kill no process of the run may be left, and no step that
had finished may be finished anew.
"""

import argparse
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import yaml

from .small import plan

ROOT = Path(__file__).parents[2]
VICTIMS = ("manager", "step", "group")
TRAINS = ("pretrain", "sft", "reward", "dpo", "ppo")
# times, digests of files that name their folder, and an archive of one that does, with its checksum
NOT_COMPARED = ("output.log", "step.json", "training_args.bin", "checkpoint-*")


# -- processes


class Forked:
    """As much of `subprocess.Popen` as the manager needs, for a recipe's command, without a new interpreter."""

    def __init__(self, command, stdout, stderr, env, pass_fds, preexec_fn):
        sys.stdout.flush()
        self.pid = os.fork()
        self.returncode = None
        if self.pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # not the manager's, as after an exec
            preexec_fn()
            os.dup2(stdout, 1)
            os.dup2(stdout, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            os.environ.update(env)
            leave(lambda: runpy.run_path(command[1], run_name="__main__"), command[1:])

    def poll(self):
        with suppress(subprocess.TimeoutExpired):
            self.wait(1e-9)
        return self.returncode

    def wait(self, timeout=None):
        until = time.monotonic() + (timeout or float("inf"))
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired("fork", timeout)
            else:
                time.sleep(0.002)
        return self.returncode

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)


def leave(main, argv: list[str]) -> None:
    """Ends this process with what `main` ends with."""
    code = 0
    sys.argv = argv
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start_manager(plan: Path, folder: Path, fresh: bool, executor: str) -> int:
    """Starts a run in a group of its own and returns its process."""
    script = ROOT / "recipes" / "rounds.py"
    argv = [str(script), "--plan", str(plan), "--output_dir", str(folder), "--executor", executor]
    log = open(folder.with_suffix(".log"), "ab")  # noqa: SIM115
    if fresh:
        return subprocess.Popen([sys.executable, *argv], stdout=log, stderr=log, start_new_session=True).pid
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        from llama_align.rounds import launch

        launch.subprocess = SimpleNamespace(
            Popen=Forked, STDOUT=subprocess.STDOUT, TimeoutExpired=subprocess.TimeoutExpired
        )
        leave(lambda: runpy.run_path(str(script), run_name="__main__"), argv)
    log.close()
    return pid


def ended(pid: int) -> int | None:
    """Exit code of a child, None while it lives."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


# -- a run and its kills


@dataclass
class Killer:
    """Runs a plan to its end, killing `kills` times on the way, spread over its steps.

    Args:
        owed: steps that take the kills first. seconds: how long each step takes undisturbed. last: number of each
            training step's last checkpoint.
    """

    plan: Path
    folder: Path
    kills: int = 0
    owed: tuple[str, ...] = ()
    seed: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)
    fresh: bool = False
    executor: str = "local"

    def __post_init__(self):
        self.draw = random.Random(self.seed)
        self.done: list[tuple[str, str, str]] = []  # step, victim, moment
        self.places: dict[str, Path] = {}
        self.finished: dict[Path, int] = {}  # when each step's record was written

    def run(self) -> None:
        steps = [step["name"] for step in yaml.safe_load(self.plan.read_text())["steps"]]
        left = dict.fromkeys(steps, self.kills // len(steps))
        others = [name for name in steps if name not in self.owed]
        for name in [*self.owed, *self.draw.sample(others, len(others))][: self.kills % len(steps)]:
            left[name] += 1
        turns = Counter()
        finished = False
        while not finished:
            found = self.folder / "run.json"
            self.stale = found.stat().st_mtime_ns if found.is_file() else 0
            pid = start_manager(self.plan, self.folder, self.fresh, self.executor)
            finished = self._watch(pid, steps, left, turns)
            self._check_what_is_left()

    def _check_what_is_left(self) -> None:
        """Raises AssertionError for a process of the run that lives on, or a finished step that was run again."""
        from llama_align.runtime.lineage import descendants

        until = time.monotonic() + 3
        while orphans := descendants(os.getpid()):  # this process has adopted them
            if time.monotonic() > until:
                raise AssertionError(f"processes {orphans} live on after {self.done[-1:]}")
            time.sleep(0.01)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = {path: path.stat().st_mtime_ns for path in self.folder.glob("*/step.json")}
        if again := [path.parent.name for path, when in self.finished.items() if found.get(path) != when]:
            raise AssertionError(f"{again} had finished and were run again after {self.done[-1:]}")
        self.finished = found

    def _watch(self, pid: int, steps: list[str], left: dict[str, int], turns: Counter) -> bool:
        """Waits for the next moment to kill; False if it came, True if the run ended."""
        while (code := ended(pid)) is None:
            name = self._running()
            if name is None or not left[name]:
                time.sleep(0.002)
                continue
            # training steps die behind their last checkpoint every other time, every other one the first time
            behind = name in self.last and (turns[name] + list(self.last).index(name)) % 2 == 0
            turns[name] += 1
            if self._moment(pid, name, behind):
                victim = VICTIMS[len(self.done) % len(VICTIMS)]
                self._kill(pid, victim)
                left[name] -= 1
                self.done.append((name, victim, "behind the last checkpoint" if behind else "anywhere"))
                print(f"{len(self.done)}: {', '.join(self.done[-1])}", flush=True)
                return False
            if self._running() != name:  # it was faster: the next step takes what is left
                after = steps[steps.index(name) + 1 :]
                if after:
                    left[after[0]] += left[name]
                left[name] = 0
        if code != 0:
            raise AssertionError(f"the run ended with {code}:\n{self.folder.with_suffix('.log').read_text()[-4000:]}")
        return True

    def _running(self) -> str | None:
        try:
            # what a killed run left says "running", too
            if (self.folder / "run.json").stat().st_mtime_ns == self.stale:
                return None
            rows = json.loads((self.folder / "run.json").read_text())["steps"]
        except (OSError, ValueError):
            return None
        self.places = {row["name"]: self.folder / row["directory"] for row in rows}
        return next((row["name"] for row in rows if row["status"] == "running"), None)

    def _moment(self, pid: int, name: str, behind: bool) -> bool:
        """Waits within a step; whether the step is still at work then."""
        # early the first time, for one kill of every step at least, on a machine with other work or without
        share = 0.6 if any(name == step for step, *_ in self.done) else 0.25
        until = time.monotonic() + self.draw.uniform(0, share * self.seconds[name])
        seal = self.places[name] / f"checkpoint-{self.last.get(name)}" / "manifest.json"
        while not (seal.is_file() if behind else time.monotonic() > until):
            if ended_without_reaping(pid) or self._running() != name:
                return False
            time.sleep(0.001)
        return self._running() == name and not ended_without_reaping(pid)

    def _kill(self, pid: int, victim: str) -> None:
        from llama_align.runtime.lineage import descendants

        if victim == "group":
            os.killpg(pid, signal.SIGKILL)
        # a step that has just ended leaves nobody else to kill
        for one in {"manager": [pid], "step": descendants(pid) or [pid]}.get(victim, []):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)
        os.waitpid(pid, 0)


def ended_without_reaping(pid: int) -> bool:
    """Whether a child has ended; its exit code stays to be asked for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


# -- comparing


def contents(folder: Path) -> dict[str, bytes]:
    """What a run left, by step and file, without what depends on the clock and with its own path taken out."""
    found = {}
    for path in sorted(folder.glob("*/**/*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(Path(part).match(rule) for rule in NOT_COMPARED for part in name.parts):
            found[str(name)] = path.read_bytes().replace(str(folder).encode(), b"RUN")
    return found


def differences(one: Path, other: Path) -> list[str]:
    """Files of two runs that are not the same."""
    first, second = contents(one), contents(other)
    return sorted(name for name in first | second if first.get(name) != second.get(name))


def undisturbed(place: Path, fresh: bool = False, executor: str = "local") -> Killer:
    """Runs the plan once; what it took is known to the killer that is returned, for a run of its own."""
    (place / "plan.yaml").write_text(yaml.safe_dump(plan()))
    folder = place / "whole"
    Killer(place / "plan.yaml", folder, fresh=fresh, executor=executor).run()
    rows = json.loads((folder / "run.json").read_text())["steps"]
    last = {}
    for row in rows:
        numbers = [int(path.name[11:]) for path in (folder / row["directory"]).glob("checkpoint-*")]
        if numbers:
            last[row["name"]] = max(numbers)
    seconds = {row["name"]: row["seconds"] for row in rows}
    return Killer(place / "plan.yaml", place / "kills", seconds=seconds, last=last, fresh=fresh, executor=executor)


def warm_up() -> None:
    """Imports what the steps need, so that forked ones have it; torch must not have worked in threads by then."""
    import torch

    import llama_align.evaluation.measure
    import llama_align.rejection.run
    import llama_align.report
    import llama_align.rounds
    import llama_align.sandbox
    import llama_align.trainers  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="new interpreters instead of forks")
    parser.add_argument("--executor", default="local", choices=["local", "inline"])
    parser.add_argument("--folder", type=Path, default=None, help="default: one that is removed afterwards")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    from llama_align.runtime.lineage import adopt

    if not args.fresh:
        warm_up()
    adopt(True)
    with tempfile.TemporaryDirectory() as temporary:
        place = args.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        first = undisturbed(place, args.fresh, args.executor)
        print(f"undisturbed: {time.monotonic() - begun:.0f} s", flush=True)
        done, differ, compared, number, owed = [], [], 0, 0, ()
        # moments that come too late are made up for in another run, first in steps that were not killed at all
        while (len(done) < args.kills or owed) and not differ:
            folder, left = place / f"kills-{number}", max(args.kills - len(done), len(owed))
            killer = replace(first, folder=folder, kills=left, owed=owed, seed=args.seed + number)
            killer.run()
            done, number, compared = done + killer.done, number + 1, compared + len(contents(folder))
            killed = {name for name, *_ in done}
            owed = (
                tuple(name for name in first.seconds if name not in killed) if args.kills >= len(first.seconds) else ()
            )
            differ = differences(place / "whole", folder)
            print(f"{folder.name}: killed {len(killer.done)} times, {time.monotonic() - begun:.0f} s", flush=True)
        print(f"\n{table(first.seconds, done)}\n\n{len(done)} kills, no orphan, nothing finished run twice")
        print(f"{compared} files compared, {len(differ)} differ", *differ, sep="\n  ")
        sys.exit(bool(differ))


def table(steps: Iterable[str], done: list[tuple[str, str, str]]) -> str:
    """Kills by step and victim."""
    rows = ["| step | manager | step | group | behind the last checkpoint |", "|---|---|---|---|---|"]
    for name in steps:
        own = [row for row in done if row[0] == name]
        victims = Counter(victim for _, victim, _ in own)
        behind = sum(moment != "anywhere" for _, _, moment in own)
        rows.append(f"| {name} | {' | '.join(str(victims[victim]) for victim in VICTIMS)} | {behind} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
