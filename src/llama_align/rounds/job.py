"""What a job of Slurm runs: one step, from what `task.json` in its folder says.

    python -m llama_align.rounds.job FOLDER [--part 3/8] [-- COMMAND ...]

A step that is finished is not run again. One that was asked to stop goes back into the queue, and on from what it has
saved; a job that is preempted is put back by Slurm itself.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..recipe import WAITS_FOR_PEOPLE, RecipeError, StoppedEarly, WaitsForPeople, exit_code
from .launch import Crew, Lock
from .slurm import TASK, requeue
from .task import Task

MOST = 100  # times that a job puts itself back; one that saves nothing would never end


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a step; returns the exit code of the job."""
    parser = argparse.ArgumentParser(prog="python -m llama_align.rounds.job", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", help="sample this part of the shards alone")
    parser.add_argument("command", nargs="*", help="instead of the step's own")
    found = parser.parse_args(arguments)
    return exit_code(lambda: run(found.folder, found.part, found.command), "the job is put back into the queue")


def run(folder: Path, part: str | None = None, command: Sequence[str] = ()) -> None:
    """Runs a step and writes its record, or puts the job back into the queue.

    Raises:
        RecipeError: the step failed, or what it was made for is not there. StoppedEarly: it will go on.
    """
    task = Task.read(folder / TASK)
    if task.is_finished():
        print(f"{task.name}: done before", flush=True)
        return
    if part:
        _run(task, folder / "parts" / part.partition("/")[0], [*task.command, "--part", part], shared=True)
        return
    seconds = _run(task, folder, command or task.command)
    task.finish(seconds)
    print(f"{task.name}: done in {seconds:.1f} s", flush=True)


def _run(task: Task, place: Path, command: Sequence[str], shared: bool = False) -> float:
    """Runs a command to its end; the seconds it took. place: that this job holds. shared: others work on the step."""
    place.mkdir(parents=True, exist_ok=True)
    with Lock(place) as lock, Crew(lock) as crew:
        task.prepare(shared)
        began = time.perf_counter()
        crew.start(task.name, command, place / "output.log", environment=task.environment)
        _, code = crew.wait()
        if code == WAITS_FOR_PEOPLE and not crew.came:
            raise WaitsForPeople(f"step {task.name!r} waits for people; the same command submits it again")
        if crew.came or task.stopped_early(code):
            again = int(os.environ.get("SLURM_RESTART_COUNT", 0)) < MOST and requeue()
            raise StoppedEarly(
                f"step {task.name!r} was stopped early" + ("; its job goes on from here" if again else "")
            )
        if code:
            raise RecipeError(
                f"step {task.name!r} ended with exit code {code}; its output is in {place / 'output.log'}"
            )
        return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
