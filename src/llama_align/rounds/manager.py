"""Runs a plan: each step in a process and a directory of its own, finished steps never run twice.

Steps that do not need each other may be at work at once.

A step's directory is `<run>/<step>-<hash>`. `step.json` in it is written last, by rename: a directory without it is
unfinished, whatever else it holds.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..recipe import STOPPED, STOPPED_EARLY, RecipeError, StoppedEarly
from ..runtime.files import write_json, write_text
from ..runtime.output import TAIL, tail
from .display import Display
from .launch import Crew, Lock
from .outputs import MARKER, alarms, check_inputs, check_outputs, outputs, outputs_digest, read_marker
from .plan import Plan, Step
from .references import resolve

RESUMABLE = "resume_from_checkpoint"
MISTAKE = 2  # exit code of a recipe that says in its last line what a user can put right
GOES_ON = "the same command goes on from here"


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
        self.status: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._behind = ""  # which step ended last

    def finished(self, name: str) -> bool:
        """Whether a step has run to its end with exactly this configuration and these inputs.

        Raises:
            RecipeError: a `step.json` that is not readable.
        """
        marker = read_marker(self.folders[name])
        return marker is not None and marker["identity"] == self.identities[name]

    def execute(
        self,
        until: str | None = None,
        start: str | None = None,
        only: Sequence[str] = (),
        jobs: int = 1,
        verbose: bool = False,
    ) -> None:
        """Runs what is not finished, in order.

        Args:
            until, start: the last and the first step that may be run. only: no others than these. jobs: steps at work
                at once, each as soon as what it refers to is finished. verbose: show all that they print.

        Raises:
            RecipeError: a step failed, a finished one's outputs have changed, one that is left out would be needed, or
                another process runs in this directory. StoppedEarly: SIGTERM came to this process or a step.
                KeyboardInterrupt: with what goes on.
        """
        if jobs < 1:
            raise RecipeError(f"jobs: found {jobs}, expected at least 1")
        chosen = self.chosen(until, start, only)
        self.directory.mkdir(parents=True, exist_ok=True)
        with Lock(self.directory) as lock:
            _remove_parts(self.directory.glob(".*.part"))
            self.status = {step.name: "finished" for step in self.plan.steps if self.finished(step.name)}
            with (
                Display(self.folders, verbose) as self._display,
                Crew(lock, jobs, verbose, self._display.watch) as crew,
            ):
                self._work_off(chosen, crew)
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

    def chosen(self, until: str | None = None, start: str | None = None, only: Sequence[str] = ()) -> list[Step]:
        """The steps that may be run.

        Raises:
            RecipeError: no step of that name, or one that needs another that is neither chosen nor finished.
        """
        names = list(self.folders)
        for option, asked in (("until", [until]), ("from", [start]), ("only", only)):
            for name in asked:
                if name is not None and name not in names:
                    raise RecipeError(f"{option}: found {name!r}, expected one of {', '.join(names)}")
        first = names.index(start) if start is not None else 0
        last = names.index(until) if until is not None else len(names)
        kept = [step for step in self.plan.steps[first : last + 1] if not only or step.name in only]
        left_out = set(names) - {step.name for step in kept}
        for step in kept:
            for name in self.plan.inputs(step.name):
                if name in left_out and not self.finished(name):
                    raise RecipeError(f"step {step.name!r} needs {name!r}, which is left out and not finished")
        return kept

    def _work_off(self, chosen: Sequence[Step], crew: Crew) -> None:
        waiting = {step.name: step for step in chosen}
        failures: list[Exception] = []
        try:
            while True:
                while not failures and not crew.came and (step := self._next(waiting, crew)):
                    del waiting[step.name]
                    with _noted(failures):
                        self._done_before(step) if self.finished(step.name) else self._begin(step, crew)
                if not crew.works:
                    break
                name, code = crew.wait()
                with _noted(failures):
                    self._end(name, code, crew)
        except KeyboardInterrupt as stop:
            self._interrupted([*stop.args, *crew.works])
        if failures:
            raise failures[0]
        if crew.came:
            raise StoppedEarly(f"stopped by SIGTERM{self._behind}; {GOES_ON}")

    def _next(self, waiting: dict[str, Step], crew: Crew) -> Step | None:
        """The first step that refers to none that is not finished yet, where there is room for another."""
        unfinished = {*waiting, *crew.works}
        ready = (step for name, step in waiting.items() if not unfinished.intersection(self.plan.inputs(name)))
        return next(ready, None) if len(crew.works) < crew.most else None

    def _done_before(self, step: Step) -> None:
        note = check_outputs(step.name, self.folders[step.name])
        check_inputs(step.name, self.folders[step.name], self._inputs(step))
        self._display.say(step.name, f"done before{f'; {note}' if note else ''}")
        self._write_overview()

    def _begin(self, step: Step, crew: Crew) -> None:
        for name, made in self._inputs(step).items():  # hours may have passed since they were looked at
            check_outputs(name, made)
        folder = self.folders[step.name]
        self.status[step.name] = "running"
        self._write_overview()
        self._prepare(step, folder)
        self._display.begin(step.name)
        self._began[step.name] = time.perf_counter()
        crew.start(step.name, self._command(step, folder), folder / "output.log")

    def _end(self, name: str, code: int, crew: Crew) -> None:
        """Marks a step as finished, or says how it ended otherwise."""
        folder, seconds = self.folders[name], round(time.perf_counter() - self._began[name], 1)
        step = next(step for step in self.plan.steps if step.name == name)
        numbers = self._display.end(name)
        if code != 0:
            self._failed(step, folder, code, crew.came)
        self._write_config(step, folder)  # as of a step that was never resumed
        marker = {"identity": self.identities[step.name], "seconds": seconds}
        marker["inputs"] = {name: outputs_digest(made) for name, made in self._inputs(step).items()}
        write_json(folder / MARKER, marker | {"outputs": outputs(folder)})
        self.status[name], self._behind = "finished", f" behind step {name!r}"
        self._write_overview()
        self._display.say(name, f"done in {seconds} s{numbers}")

    def _interrupted(self, names: list[str]) -> None:
        self.status |= dict.fromkeys(names, "stopped")
        self._write_overview()
        who = ", ".join(map(repr, names))
        at_work = f"step{'s' * (len(names) > 1)} {who} {'were' if len(names) > 1 else 'was'} at work; " if names else ""
        raise KeyboardInterrupt(f"{at_work}{GOES_ON}") from None

    def _inputs(self, step: Step) -> dict[str, Path]:
        return {name: self.folders[name] for name in self.plan.inputs(step.name)}

    def _failed(self, step: Step, folder: Path, code: int, asked: bool) -> None:
        early = code == STOPPED_EARLY or (folder / STOPPED).is_file()
        interrupted = code in (-signal.SIGINT, 128 + signal.SIGINT)
        self.status[step.name] = "stopped" if early or asked or interrupted else "failed"
        self._write_overview()
        if early or asked:
            raise StoppedEarly(f"step {step.name!r} was stopped {'early' if early else 'by SIGTERM'}; {GOES_ON}")
        if interrupted:
            raise KeyboardInterrupt(step.name)
        log = folder / "output.log"
        end = tail(log, 1 if code == MISTAKE else TAIL)
        raise RecipeError(
            f"step {step.name!r} ended with exit code {code}; its output is in {log}. "
            f"Run the same command again to go on from here.\n{end}".rstrip()
        )

    def _prepare(self, step: Step, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # nobody else writes here; a score cache may have other runs at work and looks after its own
        _remove_parts(part for part in folder.rglob("*.part") if "scores" not in part.relative_to(folder).parts)
        (folder / STOPPED).unlink(missing_ok=True)
        self._write_config(step, folder, {RESUMABLE: "last"} if any(folder.glob("checkpoint-*")) else {})

    def _write_config(self, step: Step, folder: Path, more: dict | None = None) -> None:
        directories = {name: str(path) for name, path in self.folders.items()}
        config = resolve(self.plan.configs[step.name], directories) | {"output_dir": str(folder)} | (more or {})
        write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def _command(self, step: Step, folder: Path) -> list[str]:
        script = [str(self.recipes / f"{step.recipe}.py"), "--config", str(folder / "config.yaml")]
        if step.launch is None:  # one process needs no launcher, which would import everything once more
            return [sys.executable, *script]
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", step.launch, *script]

    def _write_overview(self) -> None:
        """Writes `run.json`: every step with how it stands, and what its recipe warned of."""
        rows = []
        for step in self.plan.steps:
            folder, status = self.folders[step.name], self.status.get(step.name, "waiting")
            row = {"name": step.name, "recipe": step.recipe, "directory": folder.name}
            row |= {"inputs": self.plan.inputs(step.name), "seconds": None, "status": status}
            if step.round is not None:
                row |= {"of": step.of, "round": step.round}
            if status == "finished":
                row["seconds"] = (read_marker(folder) or {}).get("seconds")
                row |= {"alarms": found} if (found := alarms(folder)) else {}
            rows.append(row)
        write_json(self.directory / "run.json", {"name": self.plan.name, "seed": self.plan.seed, "steps": rows})


@contextmanager
def _noted(failures: list[Exception]) -> Iterator[None]:
    """Keeps a failure until what else is at work has ended."""
    try:
        yield
    except (RecipeError, StoppedEarly) as failure:
        failures.append(failure)


def _remove_parts(parts) -> None:
    for part in parts:
        with suppress(OSError):
            part.unlink()
