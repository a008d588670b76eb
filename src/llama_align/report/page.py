"""The HTML report of a run: one file, nothing loaded from anywhere, no script."""

import re
from collections import Counter
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..runtime.files import write_text
from . import figures, sections
from .benchmarks import tables
from .chosen import choice
from .gates import gate_pictures
from .inputs import Evaluation, Run, Step, read_run
from .programme import newest, programme
from .setbacks import setbacks
from .stages import FORM, Table, family_rows, stage_rows

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TILES = 5


def _breakable(name: str) -> Markup:
    """A name that may wrap after its joints, so that a column need not be as wide as "rejection_sampling"."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[_/.-])", name))


_TEMPLATES.filters["breakable"] = _breakable


def write_report(
    run_dir: str | Path, out_path: str | Path, title: str | None = None, price: float | None = None
) -> Path:
    """Writes the report of a run directory and returns its path; the same files give the same bytes.

    `title` is the run's name unless told, `price` that of an hour, for the cost of a programme. Sections whose inputs
    are missing are left out. Raises FileNotFoundError without run.json, and RecordError (a ValueError) naming the file
    for one that is broken.
    """
    page = render(read_run(run_dir), Path(run_dir), title, price)
    write_text(out_path, page)
    return Path(out_path)


def save_best_of_k(path: str | Path, curves: list[dict]) -> None:
    """Draws the expected best reward against the number of answers into an SVG file of its own, whole or not at all."""
    named = {sections.curve_name(str(path), curve, curves): curve for curve in curves}
    write_text(path, figures.standalone(figures.best_of_k("Best of k", named)))


def render(run: Run, run_dir: Path, title: str | None = None, price: float | None = None) -> str:
    """The page as text."""
    shown = newest(run.steps)
    pictures = {
        "Learning curves": [(step.name, sections.learning_curves(step)) for step in shown],
        "Needles in a haystack": [(step.name, gate_pictures(step)) for step in shown],
        "Rewards before and after": [(e.step, sections.reward_distributions(e)) for e in run.evaluations],
        "Reward models": [(step.name, sections.reward_model_pictures(step)) for step in shown],
        "Rejection sampling": [(step.name, sections.best_of_k_pictures(step)) for step in shown],
        "KL against reward": [(step.name, sections.kl_against_reward(step)) for step in shown],
    }
    pictures = {heading: [group for group in groups if group[1]] for heading, groups in pictures.items()}
    return _TEMPLATES.get_template("report.html.jinja").render(
        title=title or run.name,
        run=run,
        progress=_progress(run),
        programme=programme(run, price),
        choices=[(step.name, *found) for step in run.steps if step.round is None and (found := choice(step))],
        benchmarks=[(step.name, found) for step in shown if (found := _benchmarks(step))],
        evaluations=[_evaluation(evaluation) for evaluation in run.evaluations],
        pictures={heading: groups for heading, groups in pictures.items() if groups},
        steps=[_timed(step, run) for step in run.steps],
        configurations=[(step.name, _shown(step.config, run_dir)) for step in shown if step.config],
        duration=_duration,
    )


def _evaluation(evaluation: Evaluation) -> dict:
    table = stage_rows(evaluation.metrics, evaluation.details, evaluation.where)
    results = table.columns(lambda heading: heading not in FORM)
    # of the last model; how it stands against the row above is in the table
    last = zip(table.headings, table.cells[-1], strict=True) if table.cells else []
    return {
        "step": evaluation.step,
        "decoding": evaluation.decoding,
        "names": table.names,
        "tables": [part for part in (results, table.columns(lambda heading: heading in FORM)) if part.headings],
        "tiles": [(heading, cell) for heading, cell in last if cell.text and heading != "Change"][:_TILES],
        "setbacks": setbacks(evaluation),
        "families": family_rows(evaluation.metrics, evaluation.where),
        "pictures": sections.score_picture(evaluation),
        "dialogs": sections.dialogs(evaluation),
    }


def _benchmarks(step: Step) -> list[Table]:
    return list(tables(step.metrics, step.where)) if step.recipe == "benchmark" and step.metrics else []


def _progress(run: Run) -> str:
    """How far the run is, and the time its steps took."""
    if not run.steps:
        return ""
    counts = Counter(step.status for step in run.steps)
    finished = counts.pop("finished", 0)
    others = "".join(f", {n} {status}" for status, n in counts.items() if status)
    steps = f"{finished} of {len(run.steps)} steps finished{others}" if others else f"{len(run.steps)} steps"
    known = [step.seconds for step in run.steps if step.seconds is not None]
    return f"{steps}, {_duration(sum(known))}." if known else f"{steps}."


def _timed(step: Step, run: Run) -> dict:
    longest = max((other.seconds or 0 for other in run.steps), default=0)
    return {"step": step, "share": 100 * (step.seconds or 0) / longest if longest else 0}


def _duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _shown(config: str, run_dir: Path) -> str:
    # where the run lies on this machine says nothing about it, and would make equal runs differ
    return config.replace(str(run_dir.resolve()), ".").replace(str(run_dir), ".").strip()
