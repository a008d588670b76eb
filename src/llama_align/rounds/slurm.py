"""Steps as jobs of Slurm: one file for sbatch in each step's folder, all submitted at once, each behind what it needs.

Nothing is left running where they are submitted. A job runs `python -m llama_align.rounds.job FOLDER`, which reads what
is to be done from `task.json` in that folder: a plan that is changed meanwhile changes no job.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..recipe import RecipeError
from ..runtime.files import write_json, write_text
from .steps import read_yaml
from .task import Task

SBATCH, SHARDS, JOB, TASK = "step.sbatch", "shards.sbatch", "slurm.json", "task.json"
LEFT = 300  # seconds before its time is over that a job is told
OPTIONS = {
    **{"nodes": "nodes", "gpus": "gpus-per-node", "cpus": "cpus-per-task", "mem": "mem", "time": "time"},
    **{"partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint"},
}
# of a job that is not over, by what `status` calls it
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
NEVER = "DependencyNeverSatisfied"  # why a job waits for good, until Slurm cancels it
WORKING = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


@dataclass(frozen=True)
class Job:
    """How a step's job stands. state: as squeue or sacct has it, "" where neither knows it. reason: squeue's."""

    number: str
    state: str = ""
    reason: str = ""

    @property
    def waits(self) -> bool:
        """Whether it is to begin yet."""
        return self.state in WAITING and self.reason != NEVER

    @property
    def works(self) -> bool:
        """Whether it is at work."""
        return self.state in WORKING

    @property
    def is_over(self) -> bool:
        """Whether it is neither."""
        return not (self.waits or self.works)


def submit(task: Task, name: str, resources: dict, after: Sequence[str]) -> str:
    """Writes what a step's job needs into its folder and submits it, behind other jobs.

    Args:
        name: of the job. resources: of the step. after: numbers of the jobs that have to end well before it begins.

    Returns:
        The job's number.

    Raises:
        RecipeError: sbatch is not there or refuses the job.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    task.write(task.folder / TASK)
    if parts := resources.get("array"):
        most = f"%{resources['at_once']}" if "at_once" in resources else ""
        array = {"array": f"0-{parts - 1}{most}"}
        text = script(task, f"{name}-shards", resources, after, array, f"$SLURM_ARRAY_TASK_ID/{parts}")
        after = [_sbatch(task.folder / SHARDS, text)]
    number = _sbatch(task.folder / SBATCH, script(task, name, resources, after))
    write_json(task.folder / JOB, {"job": number, "before": list(after)})
    return number


def script(
    task: Task, name: str, resources: dict, after: Sequence[str], more: dict | None = None, part: str | None = None
) -> str:
    """The file for sbatch. part: which of the shards, where a job samples no others."""
    folder, nodes = task.folder.resolve(), resources.get("nodes", 1)
    options = {"job-name": name, "chdir": Path.cwd(), "output": str(folder / "slurm.log").replace("%", "%%")}
    # the step's processes are the batch shell's own on one node, and srun's on several
    options |= {"open-mode": "append", "requeue": None, "signal": f"{'B:' if nodes == 1 else ''}TERM@{LEFT}"}
    options |= {"dependency": f"afterok:{':'.join(after)}", "kill-on-invalid-dep": "yes"} if after else {}
    options |= {OPTIONS[key]: value for key, value in resources.items() if key in OPTIONS} | (more or {})
    options |= resources.get("sbatch", {})
    lines = [
        f"#SBATCH --{key}" + ("" if value is None else f"={shlex.quote(str(value))}") for key, value in options.items()
    ]
    command = shlex.join([sys.executable, "-m", "llama_align.rounds.job", str(folder)])
    if part:
        command += f" --part {part}"
    elif nodes > 1:
        command += f" -- {_on_nodes(task, nodes, resources)}"
    return "\n".join(["#!/bin/bash", *lines, "", *resources.get("setup", []), f"exec {command}", ""])


def _on_nodes(task: Task, nodes: int, resources: dict) -> str:
    """A launcher on every node. One of accelerate's files says how many processes a node has, unless GPUs do."""
    each = resources.get("gpus") or read_yaml(Path(task.launch)).content.get("num_processes", 1)
    launch, script = task.command[: task.command.index(str(task.script))], task.command[-3:]
    options = [f"--num_machines={nodes}", f"--num_processes={nodes * int(each)}"]
    head = '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'
    places = f"--main_process_ip={head} --main_process_port=$((20000 + SLURM_JOB_ID % 10000))"
    inner = f"{shlex.join([*launch, *options])} --machine_rank=$SLURM_NODEID {places} {shlex.join(script)}"
    return shlex.join(["srun", f"--ntasks={nodes}", "--ntasks-per-node=1", "bash", "-c", inner])


def _sbatch(path: Path, text: str) -> str:
    write_text(path, text)
    try:
        done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RecipeError("executor: found no sbatch, expected Slurm's commands on the path") from None
    number = done.stdout.strip().split(";")[0]
    if done.returncode or not number.isdecimal():
        raise RecipeError(f"{path}: sbatch refused it: {(done.stderr or done.stdout).strip()}")
    return number


def jobs(folders: dict[str, Path]) -> dict[str, Job]:
    """The jobs of steps that were submitted, by the steps' names.

    Raises:
        RecipeError: squeue is there and does not answer, so that nobody knows whether they are over.
    """
    numbers = {}
    for name, folder in folders.items():
        with suppress(OSError, ValueError, KeyError, TypeError):
            numbers[name] = str(json.loads((folder / JOB).read_text("utf-8"))["job"])
    if not numbers:
        return {}
    rows = [row.split("|") for row in _ask("squeue", "--noheader", "--format=%F|%T|%r", must=True)]
    found = {row[0].strip(): Job(*(text.strip() for text in row)) for row in rows if len(row) == 3}
    if over := sorted({*numbers.values()} - {*found}):
        rows = _ask("sacct", "-n", "-P", "-X", "-j", ",".join(over), "-o", "JobID,State")
        for number, _, state in (row.partition("|") for row in rows):
            found[number] = Job(number, state.split(" ")[0])  # "CANCELLED by 0"
    return {name: found.get(number, Job(number)) for name, number in numbers.items()}


def _ask(*command: str, must: bool = False) -> list[str]:
    """Lines that one of Slurm's commands prints; none where it is not there, or fails as one without accounts."""
    with suppress(FileNotFoundError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and must:
            raise RecipeError(f"{command[0]} failed, and nobody knows which jobs are over: {done.stderr.strip()}")
        return done.stdout.splitlines() if done.returncode == 0 else []
    return []


def requeue() -> bool:
    """Puts the job that this process is of back into the queue, unless Slurm has done so or it was cancelled.

    Returns:
        Whether this did.
    """
    array, number = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    if array:
        number = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if _ask("squeue", "--noheader", f"--jobs={number}", "--format=%T") != ["RUNNING"]:
        return False
    done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"scontrol requeue {number}: {done.stderr.strip()}", file=sys.stderr, flush=True)
    return done.returncode == 0
