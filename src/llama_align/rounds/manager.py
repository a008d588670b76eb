"""Runs a plan: each step in a process and a directory of its own, finished steps never run twice.

A step's directory is `<run>/<step>-<hash>`. `step.json` in it is written last, by rename: a directory without it is
unfinished, whatever else it holds.
"""

import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..recipe import STOPPED, STOPPED_EARLY, RecipeError, StoppedEarly
from ..runtime.files import write_json, write_text
from .launch import Lock, run_logged
from .outputs import MARKER, check_inputs, check_outputs, outputs, outputs_digest, read_marker
from .plan import Plan, Step
from .references import resolve

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
        marker = read_marker(self.folders[name])
        return marker is not None and marker["identity"] == self.identities[name]

    def execute(self, until: str | None = None) -> None:
        """Runs what is not finished, in order, up to and with the step `until`.

        Raises:
            RecipeError: a step failed, a finished one's outputs have changed, or another process runs in this
                directory. StoppedEarly: SIGTERM came to this process or a step. KeyboardInterrupt: with what goes on.
        """
        if until is not None and until not in self.folders:
            raise RecipeError(f"until: found {until!r}, expected one of {', '.join(self.folders)}")
        self.directory.mkdir(parents=True, exist_ok=True)
        with Lock(self.directory) as lock:
            _remove_parts(self.directory.glob(".*.part"))
            for number, step in enumerate(self.plan.steps, start=1):
                self._one(step, f"[{number}/{len(self.plan.steps)}] {step.name}", lock)
                if step.name == until:
                    return
            if self.report:
                self.report(self.directory)

    def verify(self) -> None:
        """Compares every output of every finished step with the digest it was written with, and prints what it found.

        Raises:
            RecipeError: outputs that are missing or have changed, of all steps.
        """
        problems = []
        for step in self.plan.steps:
            found = "not finished"
            if self.finished(step.name):
                try:
                    found = check_outputs(step.name, self.folders[step.name], content=True) or "as it was written"
                    check_inputs(step.name, self.folders[step.name], self._inputs(step))
                except RecipeError as error:
                    problems.append(str(error))
                    found = "changed"
            print(f"{step.name}: {found}", flush=True)
        if problems:
            raise RecipeError("\n".join(problems))

    def _one(self, step: Step, title: str, lock: Lock) -> None:
        folder = self.folders[step.name]
        if self.finished(step.name):
            note = check_outputs(step.name, folder)
            check_inputs(step.name, folder, self._inputs(step))
            self.seconds[step.name] = read_marker(folder).get("seconds")
            print(f"{title}: done before{f'; {note}' if note else ''}", flush=True)
            self._write_overview()
            return
        for name, made in self._inputs(step).items():  # hours may have passed since they were looked at
            check_outputs(name, made)
        print(f"{title}: {folder}", flush=True)
        self._write_overview(step.name, "running")
        started = time.perf_counter()
        try:
            code, asked = self._launch(step, folder, lock)
        except KeyboardInterrupt:
            code, asked = 128 + signal.SIGINT, False
        if code != 0:
            self._ended(step, folder, code, asked)
        self.seconds[step.name] = round(time.perf_counter() - started, 1)
        self._write_config(step, folder)  # as of a step that was never resumed
        marker = {"identity": self.identities[step.name], "seconds": self.seconds[step.name]}
        marker["inputs"] = {name: outputs_digest(made) for name, made in self._inputs(step).items()}
        write_json(folder / MARKER, marker | {"outputs": outputs(folder)})
        self._write_overview()
        if asked:
            raise StoppedEarly(f"stopped by SIGTERM behind step {step.name!r}; the same command goes on from here")

    def _inputs(self, step: Step) -> dict[str, Path]:
        return {name: self.folders[name] for name in self.plan.inputs(step.name)}

    def _ended(self, step: Step, folder: Path, code: int, asked: bool) -> None:
        """Says how a step ended that did not finish."""
        early = code == STOPPED_EARLY or (folder / STOPPED).is_file()
        interrupted = code in (-signal.SIGINT, 128 + signal.SIGINT)
        self._write_overview(step.name, "stopped" if early or asked or interrupted else "failed")
        goes_on = "the same command goes on from here"
        if early or asked:
            raise StoppedEarly(f"step {step.name!r} was stopped {'early' if early else 'by SIGTERM'}; {goes_on}")
        if interrupted:
            raise KeyboardInterrupt(f"step {step.name!r} was at work; {goes_on}")
        raise RecipeError(
            f"step {step.name!r} ended with exit code {code}; its output is in {folder / 'output.log'}. "
            "Run the same command again to go on from here."
        )

    def _launch(self, step: Step, folder: Path, lock: Lock) -> tuple[int, bool]:
        folder.mkdir(parents=True, exist_ok=True)
        # nobody else writes here; a score cache may have other runs at work and looks after its own
        _remove_parts(part for part in folder.rglob("*.part") if "scores" not in part.relative_to(folder).parts)
        (folder / STOPPED).unlink(missing_ok=True)
        resumed = {RESUMABLE: "last"} if any(folder.glob("checkpoint-*")) else {}
        self._write_config(step, folder, resumed)
        return run_logged(self._command(step, folder), folder / "output.log", lock)

    def _write_config(self, step: Step, folder: Path, more: dict | None = None) -> None:
        directories = {name: str(path) for name, path in self.folders.items()}
        config = resolve(self.plan.configs[step.name], directories) | {"output_dir": str(folder)} | (more or {})
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def _command(self, step: Step, folder: Path) -> list[str]:
        script = [str(self.recipes / f"{step.recipe}.py"), "--config", str(folder / "config.yaml")]
        if step.launch is None:  # one process needs no launcher, which would import everything once more
            return [sys.executable, *script]
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", step.launch, *script]

    def _write_overview(self, at: str | None = None, status: str = "") -> None:
        """Writes `run.json`: every step finished or waiting, but for one `at` work or ended otherwise."""
        rows = [
            {
                "name": step.name,
                "recipe": step.recipe,
                "directory": self.folders[step.name].name,
                "inputs": self.plan.inputs(step.name),
                "seconds": self.seconds.get(step.name),
                "status": status if step.name == at else "finished" if step.name in self.seconds else "waiting",
            }
            for step in self.plan.steps
        ]
        write_json(self.directory / "run.json", {"name": self.plan.name, "seed": self.plan.seed, "steps": rows})


def _remove_parts(parts) -> None:
    for part in parts:
        with suppress(OSError):
            part.unlink()
