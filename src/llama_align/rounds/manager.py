"""Runs a plan: each step in a process and a directory of its own, finished steps never run twice.

Steps that do not need each other may be at work at once.

A step's directory is `<run>/<step>-<hash>`. `step.json` in it is written last, by rename: a directory without it is
unfinished, whatever else it holds.
"""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..recipe import WAITS_FOR_PEOPLE, RecipeError, StoppedEarly, WaitsForPeople
from ..runtime.files import write_json
from ..runtime.output import TAIL, tail
from ..runtime.overview import OVERVIEW
from . import slurm
from .display import Display
from .forked import Nursery, hindrance
from .inputs import KEPT, Digests
from .launch import Crew, Lock
from .lease import holder
from .outputs import MARKER, alarms, check_inputs, check_outputs, read_marker
from .plan import Plan, Step
from .references import resolve
from .task import Task, remove_parts

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
        self._digests = Digests(self.directory / KEPT)
        self.identities = self.plan.identities(self._digests)
        self.folders = {step.name: self._folder(step.name) for step in self.plan.steps}
        self.status: dict[str, str] = {}
        self._began: dict[str, float] = {}
        self._behind = ""  # which step ended last

    def _folder(self, name: str) -> Path:
        own = self.directory / f"{name}-{self.identities[name].whole[:10]}"
        if not self.plan.accept_older or (own / MARKER).is_file():
            return own
        return next((folder for folder in self.earlier(name) if self._fits(name, read_marker(folder))), own)

    def earlier(self, name: str) -> list[Path]:
        """Folders in which a step of this name has finished, whatever with, newest first."""
        found = self.directory.glob(f"{name}-{'[0-9a-f]' * 10}/{MARKER}")
        return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]

    def _fits(self, name: str, marker: dict[str, Any] | None) -> bool:
        identity = self.identities[name]
        if marker is None or marker["identity"] == identity.whole:
            return marker is not None
        return self.plan.accept_older and marker.get("settings") == identity.settings

    def finished(self, name: str) -> bool:
        """Whether a step has run to its end with exactly this configuration and these inputs.

        Raises:
            RecipeError: a `step.json` that is not readable.
        """
        return self._fits(name, read_marker(self.folders[name]))

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
                WaitsForPeople: steps wait for people, and nothing else could be run.
            KeyboardInterrupt: with what goes on.
        """
        if jobs < 1 or (jobs > 1 and self.plan.executor == "slurm"):
            expected = "none with executor slurm, which decides" if jobs > 1 else "at least 1"
            raise RecipeError(f"jobs: found {jobs}, expected {expected}")
        chosen = self.chosen(until, start, only)
        self.directory.mkdir(parents=True, exist_ok=True)
        with Lock(self.directory) as lock:
            remove_parts(self.directory.glob(".*.part"))
            self._digests.save()
            self.status = {step.name: "finished" for step in self.plan.steps if self.finished(step.name)}
            self._jobs = slurm.jobs(self.folders)
            self._display = Display(self.folders, verbose)
            if self.plan.executor == "slurm":
                if self._submit(chosen):
                    return
            else:
                with self._display, Crew(lock, jobs, self._nursery(lock), verbose, self._display.watch) as crew:
                    self._work_off(chosen, crew)
            if self.report:
                self.report(self.directory)

    def _submit(self, chosen: Sequence[Step]) -> bool:
        """Submits what is neither finished nor submitted; whether anything is left to be done by jobs."""
        numbers = {}
        for step in chosen:
            if self.finished(step.name):
                self._done_before(step)
                continue
            job = self._jobs.get(step.name)
            if job is None or job.is_over:
                after = [numbers[name] for name in self.plan.inputs(step.name) if name in numbers]
                numbers[step.name] = slurm.submit(
                    self.task(step), f"{self.plan.name}.{step.name}", step.resources, after
                )
                said = f"job {numbers[step.name]}" + (f" behind {', '.join(after)}" if after else "")
            else:
                numbers[step.name], said = job.number, f"job {job.number}, {job.state}"
            self.status[step.name] = "submitted"
            self._display.say(step.name, said)
            self._write_overview()
        return bool(numbers)

    def verify(self) -> None:
        """Compares every output of every finished step with the digest it was written with, and prints what it found.

        Raises:
            RecipeError: outputs that are missing or have changed, of all steps.
        """
        problems = []
        for step in self.plan.steps:
            found = "not finished"
            try:
                if self.finished(step.name):
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
        self._open: dict[str, str] = {}  # steps that wait for people, and what they said of it
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
        if self._open:
            raise WaitsForPeople("\n".join([*self._open.values(), GOES_ON]))

    def _nursery(self, lock: Lock) -> Nursery | None:
        if self.plan.executor != "inline":
            return None
        if reason := hindrance():
            print(f"executor: {reason}; every step has a process of its own", flush=True)
            return None
        names = dict.fromkeys(step.recipe for step in self.plan.steps if step.launch is None)
        return Nursery([self.recipes.resolve() / f"{name}.py" for name in names], lock.inherited) if names else None

    def _next(self, waiting: dict[str, Step], crew: Crew) -> Step | None:
        """The first step that refers to none that is not finished yet, where there is room for another."""
        unfinished = {*waiting, *crew.works, *self._open}
        ready = (step for name, step in waiting.items() if not unfinished.intersection(self.plan.inputs(name)))
        return next(ready, None) if len(crew.works) < crew.most else None

    def _done_before(self, step: Step) -> None:
        folder = self.folders[step.name]
        notes = [check_outputs(step.name, folder)]
        check_inputs(step.name, folder, self._inputs(step))
        if read_marker(folder)["identity"] != self.identities[step.name].whole:
            notes.append("by other code, which accept_older takes")
        self._display.say(step.name, "; ".join(["done before", *filter(None, notes)]))
        self._write_overview()

    def task(self, step: Step) -> Task:
        """A step with all that it takes to execute it."""
        directories = {name: str(path) for name, path in self.folders.items()}
        return Task(
            name=step.name,
            folder=self.folders[step.name],
            script=self.recipes / f"{step.recipe}.py",
            launch=step.launch,
            identity=self.identities[step.name],
            inputs=self._inputs(step),
            config=resolve(self.plan.configs[step.name], directories),
            tracker=self.plan.tracker,
        )

    def _begin(self, step: Step, crew: Crew) -> None:
        task = self.task(step)
        job = self._jobs.get(step.name)
        if job is not None and not job.is_over:
            raise RecipeError(
                f"step {step.name!r} is job {job.number} of Slurm ({job.state}); scancel it to run it here"
            )
        if who := holder(task.folder):  # a job, where Slurm cannot be asked
            raise RecipeError(f"{task.folder}: step {step.name!r} is at work as a job ({who}); end it to run it here")
        task.prepare()
        self.status[step.name] = "running"
        self._write_overview()
        self._display.begin(step.name)
        self._began[step.name] = time.perf_counter()
        log, alone = task.folder / "output.log", step.launch is not None
        crew.start(step.name, task.command, log, alone, task.environment)

    def _end(self, name: str, code: int, crew: Crew) -> None:
        """Marks a step as finished, or says how it ended otherwise."""
        task = self.task(next(step for step in self.plan.steps if step.name == name))
        seconds = time.perf_counter() - self._began[name]
        numbers = self._display.end(name)
        if code == WAITS_FOR_PEOPLE and not crew.came:
            self._open[name] = f"step {name!r} {tail(task.folder / 'output.log', 1)}"
            self.status[name] = "open"
            self._write_overview()
            self._display.say(name, "open: waits for people")
            return
        if code != 0 or task.stopped_early(code):
            self._failed(task, code, crew.came)
        task.finish(seconds)
        self.status[name], self._behind = "finished", f" behind step {name!r}"
        self._write_overview()
        self._display.say(name, f"done in {seconds:.1f} s{numbers}")

    def _interrupted(self, names: list[str]) -> None:
        self.status |= dict.fromkeys(names, "stopped")
        self._write_overview()
        who = ", ".join(map(repr, names))
        at_work = f"step{'s' * (len(names) > 1)} {who} {'were' if len(names) > 1 else 'was'} at work; " if names else ""
        raise KeyboardInterrupt(f"{at_work}{GOES_ON}") from None

    def _inputs(self, step: Step) -> dict[str, Path]:
        return {name: self.folders[name] for name in self.plan.inputs(step.name)}

    def _failed(self, task: Task, code: int, asked: bool) -> None:
        early, name = task.stopped_early(code), task.name
        interrupted = code in (-signal.SIGINT, 128 + signal.SIGINT)
        self.status[name] = "stopped" if early or asked or interrupted else "failed"
        self._write_overview()
        if early or asked:
            raise StoppedEarly(f"step {name!r} was stopped {'early' if early else 'by SIGTERM'}; {GOES_ON}")
        if interrupted:
            raise KeyboardInterrupt(name)
        log = task.folder / "output.log"
        end = tail(log, 1 if code == MISTAKE else TAIL)
        raise RecipeError(
            f"step {name!r} ended with exit code {code}; its output is in {log}. "
            f"Run the same command again to go on from here.\n{end}".rstrip()
        )

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
        write_json(self.directory / OVERVIEW, {"name": self.plan.name, "seed": self.plan.seed, "steps": rows})


@contextmanager
def _noted(failures: list[Exception]) -> Iterator[None]:
    """Keeps a failure until what else is at work has ended."""
    try:
        yield
    except (RecipeError, StoppedEarly) as failure:
        failures.append(failure)
