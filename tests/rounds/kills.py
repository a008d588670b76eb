"""Kills a run of fifteen small steps again and again, and compares its end with an undisturbed run's, byte for byte.

    python -m tests.rounds.kills --kills 100 --seed 0

Managers and steps are real processes that end by SIGKILL: the manager alone, the step alone, or the whole group, at any
moment of a step or between its last checkpoint and `step.json`. They are forked from this one, which has imported all
they need; `--fresh` starts new interpreters instead, as a user does, ten times slower.
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

ROOT = Path(__file__).parents[2]
VICTIMS = ("manager", "step", "group")
TRAINS = ("pretrain", "sft", "reward", "dpo", "ppo")
# times, digests of files that name their folder, and an archive of one that does, with its checksum
NOT_COMPARED = ("output.log", "step.json", "training_args.bin", "checkpoint-*")

TRAINING = {
    **{"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "logging_steps": 3, "per_device_train_batch_size": 4},
    **{"learning_rate": 1.0e-2, "gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True},
}
SMALL = {
    **{"people": 6, "places": 3, "documents": 80, "documents_heldout": 6, "demonstrations": 120, "preferences": 60},
    **{"preferences_heldout": 12, "prompts": 24, "heldout_helpful": 8, "heldout_lookalike": 3, "heldout_secret": 3},
    **{"validation_helpful": 4, "validation_lookalike": 2, "validation_secret": 2},
}
SHAPE = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1},
}


def plan() -> dict:
    """A plan with every kind of step."""

    def data(*names: str) -> list[dict]:
        return [{"path": name} for name in names]

    def trained(of: str, *names: str, **more) -> dict:
        return TRAINING | {"model_name_or_path": f"{{{of}}}", "datasets": data(*names)} | more

    rewards = {"helpfulness": "{reward_helpfulness}", "safety": "{reward_safety}"}
    pairs = data("{sandbox}/preferences.jsonl", "{annotate}/preferences.jsonl")
    heldout = data("{sandbox}/preferences_heldout.jsonl")
    prompts = data("{sandbox}/prompts.jsonl")
    grades = ["significantly_better", "better", "slightly_better", "negligibly_better"]
    steps = {
        "sandbox": ("sandbox", SMALL),
        "tokenizer": (
            "tokenizer",
            {"datasets": data("{sandbox}/corpus.jsonl"), "vocab_size": 320, "num_special_tokens": 16},
        ),
        "pretrain": (
            "pretrain",
            TRAINING
            | {"tokenizer": "{tokenizer}", "datasets": data("{sandbox}/corpus.jsonl"), "size_overrides": SHAPE}
            | {"eval_datasets": data("{sandbox}/corpus_heldout.jsonl"), "context": 64, "warmup_steps": 1},
        ),
        "sft": ("sft", trained("pretrain", "{sandbox}/demonstrations.jsonl", max_length=256, max_steps=30)),
        "annotate": ("annotate", {"models": ["{sft}"], "datasets": prompts, "max_new_tokens": 24}),
        **{
            f"reward_{objective}": (
                "reward",
                trained("sft", objective=objective) | {"datasets": pairs, "eval_datasets": heldout},
            )
            for objective in ("helpfulness", "safety")
        },
        "rejection_sampling": (
            "rejection_sampling",
            {"model": "{sft}", "datasets": prompts, "reward_models": rewards, "answers": 4, "max_new_tokens": 32}
            | {"prompts_per_shard": 4, "select": ["best_of_k", "best_against_worst"], "judge": "sandbox"}
            | {"gaps": {"better": 0.0}},
        ),
        "sft_best": ("sft", trained("sft", "{rejection_sampling}/best.jsonl", max_length=256)),
        "ppo": (
            "ppo",
            trained("sft_best", "{sandbox}/prompts.jsonl", reward_models=rewards, max_completion_length=16)
            | {"num_iterations": 2, "learning_rate": 1.0e-3},
        ),
        "annotate_2": ("annotate", {"models": ["{ppo}"], "datasets": prompts, "max_new_tokens": 24, "round": 2}),
        **{
            name: ("dpo", trained("ppo", "{annotate_2}/preferences.jsonl", max_length=256, grades=grades, seed=seed))
            for name, seed in (("dpo", 0), ("dpo_b", 1))
        },
        "average": ("average", {"models": ["{dpo}", "{dpo_b}"]}),
        "evaluate": (
            "evaluate",
            {"models": {"sft": "{sft}", "average": "{average}"}, "datasets": data("{sandbox}/heldout.jsonl")}
            | {"texts": data("{sandbox}/corpus_heldout.jsonl"), "judge": "sandbox", "reward_models": rewards}
            | {"max_new_tokens": 16, "context": 64},
        ),
    }
    rows = [{"name": name, "recipe": recipe, "set": options} for name, (recipe, options) in steps.items()]
    return {"name": "kills", "seed": 0, "steps": rows}


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


def start_manager(plan: Path, folder: Path, fresh: bool) -> int:
    """Starts a run in a group of its own and returns its process."""
    script = ROOT / "recipes" / "rounds.py"
    argv = [str(script), "--plan", str(plan), "--output_dir", str(folder)]
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

    def __post_init__(self):
        self.draw = random.Random(self.seed)
        self.done: list[tuple[str, str, str]] = []  # step, victim, moment
        self.places: dict[str, Path] = {}

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
            pid = start_manager(self.plan, self.folder, self.fresh)
            finished = self._watch(pid, steps, left, turns)

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


def undisturbed(place: Path, fresh: bool = False) -> Killer:
    """Runs the plan once; what it took is known to the killer that is returned, for a run of its own."""
    (place / "plan.yaml").write_text(yaml.safe_dump(plan()))
    folder = place / "whole"
    Killer(place / "plan.yaml", folder, fresh=fresh).run()
    rows = json.loads((folder / "run.json").read_text())["steps"]
    last = {}
    for row in rows:
        numbers = [int(path.name[11:]) for path in (folder / row["directory"]).glob("checkpoint-*")]
        if numbers:
            last[row["name"]] = max(numbers)
    seconds = {row["name"]: row["seconds"] for row in rows}
    return Killer(place / "plan.yaml", place / "kills", seconds=seconds, last=last, fresh=fresh)


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
    parser.add_argument("--folder", type=Path, default=None, help="default: one that is removed afterwards")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    if not args.fresh:
        warm_up()
    with tempfile.TemporaryDirectory() as temporary:
        place = args.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        first = undisturbed(place, args.fresh)
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
        print(f"\n{table(first.seconds, done)}\n\n{len(done)} kills")
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
