"""datatrove's executors by name: local by default, Slurm or Ray by one key. Knows stages; nothing of what they do."""

import errno
import shutil
import subprocess
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from ..data import SourceError
from ..runtime.progress import Task, shower

KINDS = ("local", "slurm", "ray")
# of datatrove's executors: what stages and other keys decide
OURS = {"pipeline", "tasks", "workers", "depends", "depends_job_id", "logging_dir", "start_method", "skip_completed"}
LEAST_FREE = 64 << 20  # bytes below which no stage is begun


@dataclass
class Stage:
    """Steps that run one after the other on a task's documents. once: by one task."""

    name: str
    steps: list[PipelineStep]
    tasks: int


@dataclass
class Executor:
    """How stages run.

    kind: local, slurm or ray. tasks: into how many a stage is cut. workers: at once, where local.
    options: of datatrove's executor, such as partition, time, mem_per_cpu_gb.
    """

    kind: str = "local"
    tasks: int = 2
    workers: int = 2
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SourceError(f"executor: found {self.kind!r}, expected one of {', '.join(KINDS)}")
        for name in ("tasks", "workers"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise SourceError(f"executor, key {name!r}: found {getattr(self, name)!r}, expected 1 or more")
        known = sorted(set(signature(_class(self.kind)).parameters) - OURS)
        if unknown := sorted(set(self.options) - set(known)):
            raise SourceError(f"executor_options: found {unknown[0]!r}, expected some of {', '.join(known)}")

    def run(self, stages: list[Stage], logs: Path) -> None:
        """Runs what is not done. A stage's tasks leave markers in `logs`; on Slurm all stages are submitted at once."""
        logs.mkdir(parents=True, exist_ok=True)
        logger.remove()
        before = None
        with Task(len(stages), "stage", shown=self.kind != "slurm" and shower() is not None) as task:
            for number, stage in enumerate(stages):
                before = self._make(stage, logs / f"{number:02d}-{stage.name}", before)
                if self.kind == "slurm":
                    continue
                free = shutil.disk_usage(logs.parent).free
                if free < LEAST_FREE:
                    found = f"{free >> 20} MiB free before {stage.name!r}, expected at least {LEAST_FREE >> 20}"
                    raise OSError(errno.ENOSPC, found, str(logs.parent))
                task.at(number, part=stage.name)
                before.run()
                task.at(number + 1)
        if self.kind == "slurm":
            try:
                before.run()
            except subprocess.CalledProcessError as error:  # sbatch has said why
                raise SourceError(f"executor: sbatch ended with {error.returncode}, expected a job's number") from error

    def _make(self, stage: Stage, logs: Path, before: Any) -> Any:
        given: dict[str, Any] = {"pipeline": stage.steps, "tasks": stage.tasks, "logging_dir": str(logs)}
        if self.kind == "local":
            given |= {"workers": min(self.workers, stage.tasks), "start_method": "fork"}
        elif self.kind == "slurm":
            given |= {"depends": before}
            given = {"time": "12:00:00", "partition": "cpu", "job_name": f"curate-{stage.name}"} | self.options | given
        else:
            given |= {"workers": self.workers}
        return _class(self.kind)(**self.options | given)


def _class(kind: str) -> type:
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor

    return {"local": LocalPipelineExecutor, "slurm": SlurmPipelineExecutor, "ray": RayPipelineExecutor}[kind]
