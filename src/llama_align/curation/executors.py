"""datatrove's executors by name: local by default, Slurm or Ray by one key. Knows stages; nothing of what they do."""

import errno
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from ..data import SourceError

KINDS = ("local", "slurm", "ray")
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

    def run(self, stages: list[Stage], logs: Path) -> None:
        """Runs what is not done. A stage's tasks leave markers in `logs`; on Slurm all stages are submitted at once."""
        logs.mkdir(parents=True, exist_ok=True)
        logger.remove()
        before = None
        for number, stage in enumerate(stages):
            before = self._make(stage, logs / f"{number:02d}-{stage.name}", before)
            if self.kind == "slurm":
                continue
            free = shutil.disk_usage(logs.parent).free
            if free < LEAST_FREE:
                found = f"{free >> 20} MiB free before {stage.name!r}, expected at least {LEAST_FREE >> 20}"
                raise OSError(errno.ENOSPC, found, str(logs.parent))
            before.run()
        if self.kind == "slurm":
            before.run()

    def _make(self, stage: Stage, logs: Path, before: Any) -> Any:
        common = {"pipeline": stage.steps, "tasks": stage.tasks, "logging_dir": str(logs)}
        if self.kind == "local":
            from datatrove.executor import LocalPipelineExecutor

            workers = min(self.workers, stage.tasks)
            return LocalPipelineExecutor(**common, workers=workers, start_method="fork", **self.options)
        if self.kind == "slurm":
            from datatrove.executor import SlurmPipelineExecutor

            defaults = {"time": "12:00:00", "partition": "cpu", "job_name": f"curate-{stage.name}"}
            return SlurmPipelineExecutor(**common, depends=before, **defaults | self.options)
        from datatrove.executor import RayPipelineExecutor

        return RayPipelineExecutor(**common, workers=self.workers, **self.options)
