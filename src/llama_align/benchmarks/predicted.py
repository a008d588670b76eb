"""Benchmarks on a ladder of runs: measured at every point, predicted in two steps for the runs above it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..recipe import RecipeError
from ..recipe.engines import EngineSettings
from ..report.figures import standalone
from ..report.laws import prediction
from ..runtime.files import write_text
from ..runtime.output import say
from ..runtime.processes import ALONE
from ..scaling.benchmarks import TwoStep
from .catalogue import Settings, Task
from .measure import Benchmarks


def ladder_benchmarks(
    names: Sequence[str], output_dir: str | Path, limit: int | None, tokenizer: PreTrainedTokenizerBase, context: int
) -> Benchmarks:
    """Tasks that have a loss of the right answer, which is what the first step predicts.

    Args:
        context: tokens that the models to be measured can read.

    Raises:
        RecipeError: a task without one, or with an answer that fills the context, and as `load_tasks` does.
    """
    found = Benchmarks(Path(output_dir), names, Settings(), EngineSettings(), ALONE, limit)
    if without := [task.name for task in found.tasks if "nll" not in task.metrics]:
        raise RecipeError(f"benchmarks: found {without[0]}, expected tasks whose right answers have a likelihood")
    for task in found.tasks:
        answers = [f" {choice}" for doc in task.docs(limit) for choice in doc.get("choices", ())]
        longest = max((len(ids) for ids in tokenizer(answers, add_special_tokens=False).input_ids), default=0)
        if longest > context:  # known now, not when all is trained
            expected = f"expected at most the models' {context}: another task, limit or context"
            raise RecipeError(f"benchmarks: found {task.name} with an answer of {longest} tokens, {expected}")
    return found


def measured(benchmarks: Benchmarks, folders: Mapping[str, Path]) -> dict[str, dict[str, dict]]:
    """Of each task, by run, `nll` (nats a byte), `accuracy` and `n`; runs that were measured before are read."""
    for name, folder in folders.items():
        if not benchmarks.done(name, str(folder)):
            benchmarks.measure(name, str(folder))
    rows = [benchmarks.row(name) for name in folders]
    return {task.name: {row["name"]: _of(row["tasks"][task.name]) for row in rows} for task in benchmarks.tasks}


def _of(found: Mapping[str, Any]) -> dict:
    return {"nll": found["others"]["nll"]["value"], "accuracy": found["value"], "n": found["n"]}


def chance(task: Task, limit: int | None = None) -> float:
    """The share of a guess: one answer in so many, 0 where the answer is any text."""
    docs = task.docs(limit)
    return float(np.mean([1 / len(doc["choices"]) if "choices" in doc else 0.0 for doc in docs]))


def two_steps(
    points: Sequence[dict], targets: Sequence[dict], found: Mapping[str, dict], guess: float, draws: int
) -> dict:
    """What two steps and the direct law predict for the targets, beside what was measured.

    Args:
        points, targets: runs with `name`, `flops` and `run`. found: as `measured` has it for one task.
    """
    of_points = [found[point["name"]] for point in points]
    flops, runs = ([point[key] for point in points] for key in ("flops", "run"))
    nll, accuracy = ([one[key] for one in of_points] for key in ("nll", "accuracy"))
    fit = TwoStep.fit(flops, nll, accuracy, of_points[0]["n"], guess, runs)
    predicted = []
    for target in targets:
        one = fit.predict(target["flops"], draws) | {"name": target["name"], "measured": found[target["name"]]}
        for key, of in (("nll", "nll"), ("two_step", "accuracy"), ("direct", "accuracy")):
            if one[key]:
                one[f"{key}_inside"] = one[key][1] <= one["measured"][of] <= one[key][2]
        predicted.append(one)
    constants = {"line": fit.line.tolist(), "sigmoid": fit.sigmoid.tolist(), "direct": fit.direct.tolist()}
    measured = [{"name": name} | one for name, one in found.items()]
    return {"chance": guess, "why": fit.unpredictable(), **constants, "points": measured, "predicted": predicted}


def predict(
    benchmarks: Benchmarks,
    folders: Mapping[str, Path],
    points: Sequence[dict],
    targets: Sequence[dict],
    draws: int,
    output: Path,
) -> dict:
    """Each task measured at every point, and predicted for the targets: in words, numbers and pictures."""
    found, of_runs = {}, measured(benchmarks, {row["name"]: folders[row["name"]] for row in [*points, *targets]})
    for task in benchmarks.tasks:
        guess = chance(task, benchmarks.limit)
        found[task.name] = two_steps(points, targets, of_runs[task.name], guess, draws)
        _draw(task.name, found[task.name], points, targets, output)
        for one in found[task.name]["predicted"]:
            accuracy = one["why"] or "accuracy {:.3f} [{:.3f}, {:.3f}]".format(*one["two_step"])
            loss = "loss {:.4f} [{:.4f}, {:.4f}]".format(*one["nll"])
            was = "{nll:.4f} and {accuracy:.3f}".format(**one["measured"])
            say(f"{task.name}: {one['name']} predicted {loss}, {accuracy}; measured {was}")
    return found


def _draw(task: str, found: dict, points: Sequence[dict], targets: Sequence[dict], output: Path) -> None:
    """`<task>_nll.svg` and, where it can be predicted, targets in `<task>_accuracy.svg`."""
    labels = {"nll": "loss of the right answer, nats a byte", "accuracy": f"accuracy, {task}"}
    for (of, label), key in zip(labels.items(), ("nll", "two_step"), strict=True):
        measured = {one["name"]: one[of] for one in found["points"]}
        below = [point["flops"] for point in points], [measured[point["name"]] for point in points]
        pairs = zip(targets, found["predicted"], strict=True)
        above = [(target["flops"], one["measured"][of], *one[key][1:]) for target, one in pairs if one[key]]
        write_text(output / f"{task}_{of}.svg", standalone(prediction(f"{task}, {of}", below, above, label)))
