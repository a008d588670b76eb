"""Runs a plan: each step in a process and a directory of its own, finished steps never run twice.

A step's directory is `<run>/<step>-<hash>`. `step.json` in it is written last, by rename: a directory without it is
unfinished, whatever else it holds.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..recipe import RecipeError
from ..runtime.files import write_json, write_text
from .plan import Plan, Step, resolve

RESUMABLE = "resume_from_checkpoint"


@dataclass
class Run:
    """A plan bound to a directory.

    Args:
        recipes: the folder of the recipe scripts. report: writes the report of a run directory, after the last step.
    """

    plan: Plan
    directory: Path
    recipes: Path
    report: Callable[[Path], None] | None = None

    def __post_init__(self):
        self.directory = Path(self.directory)
        self.identities = self.plan.identities()
        self.folders = {
            step.name: self.directory / f"{step.name}-{self.identities[step.name][:10]}" for step in self.plan.steps
        }
        self.seconds: dict[str, float | None] = {}

    def finished(self, name: str) -> bool:
        """Whether a step has run to its end with exactly this configuration and these inputs.

        Raises:
            RecipeError: a `step.json` that is not readable.
        """
        marker = self.folders[name] / "step.json"
        if not marker.is_file():
            return False
        try:
            return json.loads(marker.read_text())["identity"] == self.identities[name]
        except (json.JSONDecodeError, KeyError) as error:
            raise RecipeError(
                f"{marker}: found no readable step record ({error}); remove it to run the step again"
            ) from error

    def execute(self, until: str | None = None) -> None:
        """Runs what is not finished, in order, up to and with the step `until`.

        Raises:
            RecipeError: a step failed, or another process runs in this directory.
        """
        if until is not None and until not in self.folders:
            raise RecipeError(f"until: found {until!r}, expected one of {', '.join(self.folders)}")
        self.directory.mkdir(parents=True, exist_ok=True)
        with _locked(self.directory / ".lock"):
            for number, step in enumerate(self.plan.steps, start=1):
                self._one(step, f"[{number}/{len(self.plan.steps)}] {step.name}")
                if step.name == until:
                    return
            if self.report:
                self.report(self.directory)

    def _one(self, step: Step, title: str) -> None:
        folder = self.folders[step.name]
        if self.finished(step.name):
            self.seconds[step.name] = json.loads((folder / "step.json").read_text()).get("seconds")
            print(f"{title}: done before", flush=True)
            self._write_overview()
            return
        print(f"{title}: {folder}", flush=True)
        started = time.perf_counter()
        code = self._launch(step, folder)
        if code != 0:
            self._write_overview(failed=step.name)
            if code in (-signal.SIGINT, 130):
                raise KeyboardInterrupt
            raise RecipeError(
                f"step {step.name!r} ended with exit code {code}; its output is in {folder / 'output.log'}. "
                "Run the same command again to go on from here."
            )
        self.seconds[step.name] = round(time.perf_counter() - started, 1)
        write_json(folder / "step.json", {"identity": self.identities[step.name], "seconds": self.seconds[step.name]})
        self._write_overview()

    def _launch(self, step: Step, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        directories = {name: str(path) for name, path in self.folders.items()}
        config = resolve(self.plan.configs[step.name], directories) | {"output_dir": str(folder)}
        if any(folder.glob("checkpoint-*")):
            config[RESUMABLE] = "last"
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return _tee(self._command(step, folder), folder / "output.log")

    def _command(self, step: Step, folder: Path) -> list[str]:
        script = [str(self.recipes / f"{step.recipe}.py"), "--config", str(folder / "config.yaml")]
        if step.launch is None:  # one process needs no launcher, which would import everything once more
            return [sys.executable, *script]
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", step.launch, *script]

    def _write_overview(self, failed: str | None = None) -> None:
        rows = []
        for step in self.plan.steps:
            status = "failed" if step.name == failed else "finished" if step.name in self.seconds else "waiting"
            rows.append(
                {
                    "name": step.name,
                    "recipe": step.recipe,
                    "directory": self.folders[step.name].name,
                    "inputs": self.plan.inputs(step.name),
                    "seconds": self.seconds.get(step.name),
                    "status": status,
                }
            )
        write_json(self.directory / "run.json", {"name": self.plan.name, "seed": self.plan.seed, "steps": rows})


def _tee(command: list[str], log: Path) -> int:
    """Runs a command; its output goes to the terminal and to a file. An interrupt reaches the command, too."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with (
        log.open("ab") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            while chunk := process.stdout.read1(65536):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
                file.write(chunk)
        except BaseException:
            process.terminate()
            raise
        return process.wait()


@contextmanager
def _locked(path: Path):
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(f"{path.parent}: another process runs in this directory, expected to be alone") from None
        yield
