"""`llama-align rounds run|status|dry-run|verify PLAN`."""

import argparse
import json
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..recipe import RecipeError, exit_code
from ..report import print_stages, write_report
from ..runtime.shipped import shipped
from .manager import Run
from .plan import Plan
from .status import Standing, standings
from .steps import PlanError

MARKS = {"done": "green", "running": "cyan", "submitted": "cyan", "failed": "red", "stopped": "yellow", "waiting": ""}
UNITS = ("B", "kB", "MB", "GB", "TB")


def bind(
    plan: str | Path,
    output_dir: str | Path | None,
    recipes: str | Path,
    seed: int | None = None,
    launch: str | None = None,
    executor: str | None = None,
    accept_older: bool = False,
    price: float | None = None,
) -> Run:
    """A plan with its directory, `runs/<name>` unless told, where a report is written as `report.html`.

    Args:
        price: of an hour, for the estimate of cost in it.

    Raises:
        RecipeError: a plan that cannot be run.
    """
    try:
        found = Plan.load(plan, recipes, seed, launch, executor, accept_older)
    except PlanError as error:
        raise RecipeError(str(error)) from error
    directory = Path(output_dir or Path("runs") / found.name)

    def report(folder: Path) -> None:
        measured = [step.name for step in found.steps if step.recipe == "evaluate"]
        if measured and (metrics := run.folders[measured[-1]] / "metrics.json").is_file():
            print_stages(json.loads(metrics.read_text("utf-8")))
        print(f"\nreport: {write_report(folder, folder / 'report.html', found.name, price)}")

    run = Run(found, directory, Path(recipes), report)  # whose folders the report reads
    return run


def main(options: argparse.Namespace) -> int:
    """Runs one of the commands; returns the process's exit code."""
    return exit_code(lambda: _main(options), "the same command goes on")


def _main(options: argparse.Namespace) -> None:
    recipes = options.recipes or recipes_of(options.plan)
    run = bind(
        options.plan,
        options.output_dir,
        recipes,
        options.seed,
        options.launch,
        options.executor,
        options.accept_older,
        getattr(options, "price", None),
    )
    if options.action == "run":
        run.execute(options.until, options.start, options.only or (), options.jobs, options.verbose)
    elif options.action == "verify":
        run.verify()
    elif options.action == "status":
        print_status(standings(run))
    else:
        print_dry_run(run, run.chosen(options.until, options.start, options.only or ()))


def recipes_of(plan: str | Path) -> Path:
    """The folder of recipe scripts a plan belongs to: the nearest above it, or `recipes`, that has rounds.py; else that
    which comes with the package."""
    places = (*Path(plan).resolve().parents, Path("recipes").resolve())
    return next((folder for folder in places if (folder / "rounds.py").is_file()), shipped("recipes"))


def print_status(rows: list[Standing]) -> None:
    """A table of how every step stands; plain text where the output goes elsewhere than to a terminal."""
    console = Console(width=None if sys.stdout.isatty() else 240)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else box.ASCII2)
    for heading, justify in (("step", "left"), ("state", "left"), ("seconds", "right"), ("size", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)
    table.add_column("why it will be run, or where it is")
    for row in rows:
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        state = Text(row.state, MARKS[row.state] if console.is_terminal else "")
        table.add_row(Text(row.name), state, seconds, _size(row.size), Text(row.why))
    console.print(table)
    counts = {state: sum(row.state == state for row in rows) for state in MARKS}
    said = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    left = sum(row.size or 0 for row in rows)
    print(f"{said}; {sum(row.seconds or 0 for row in rows):.0f} s, {_size(left)} in all")


def print_dry_run(run: Run, chosen: list) -> None:
    """Every step as it would be run, with its recipe, what it refers to and what will be done about it."""
    known = {row.name: row for row in standings(run)}
    for number, step in enumerate(run.plan.steps, start=1):
        row = known[step.name]
        todo = "done" if row.state == "done" else "left out" if step not in chosen else "run"
        inputs = ", ".join(run.plan.inputs(step.name))
        why = f": {row.why}" if row.why else ""
        print(f"[{number}/{len(known)}] {step.name} ({step.recipe}){f' from {inputs}' if inputs else ''}: {todo}{why}")


def _size(size: int | None) -> str:
    if size is None:
        return ""
    number, unit = float(size), 0
    while number >= 1000 and unit < len(UNITS) - 1:
        number, unit = number / 1000, unit + 1
    return f"{number:.1f} {UNITS[unit]}" if unit else f"{size} B"
