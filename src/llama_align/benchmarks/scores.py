"""From what the harness found of each item to scores with standard errors, and the papers' table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics.intervals import Z95, wilson
from ..report.benchmarks import tables
from .catalogue import Task, catalogue, members

KEPT = ("value", "stderr", "n")  # of the parts of a task


def score(values: Sequence[float]) -> dict:
    """Mean, its standard error (as the harness's `mean_stderr`), a 95% interval, and of how many.

    The interval of a share is Wilson's, whose width is not zero where all are right or wrong.
    """
    found = np.asarray(values, float)
    mean, n = float(found.mean()), len(found)
    error = float(found.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    low, high = mean - Z95 * error, mean + Z95 * error
    if np.isin(found, (0, 1)).all():
        low, high = wilson(mean * n, n)
    return {"value": mean, "low": low, "high": high, "stderr": error, "n": n}


def scores_of(task: Task, results: Mapping[str, Any], overlap: np.ndarray | None) -> dict:
    """A task's scores by metric, its main one by part, and where `overlap` [items] is known, on both sides of it.

    Metrics of the harness's own that are no mean over items are taken as it gives them, of a task of one part.
    """
    metrics = {}
    for metric in task.metrics:
        values = _values(task, results, metric)
        if values is not None:
            metrics[metric] = score(values)
        elif len(task.parts) == 1 and (found := _whole(task, results, metric)):
            metrics[metric] = found
    if not metrics:
        raise ValueError(f"{task.name}: found {', '.join(task.metrics)}, expected a metric that is a number")
    shown = next(iter(metrics))
    found = {"metric": shown, "shots": task.shots, **metrics.pop(shown)}
    if metrics:
        found["others"] = metrics
    if len(task.parts) > 1:
        parts = {part.task_name: score(_of_part(part.task_name, results, shown)) for part in task.parts}
        found["parts"] = [{"part": name, **{key: one[key] for key in KEPT}} for name, one in parts.items()]
    values = _values(task, results, shown)
    if overlap is not None and values is not None:
        found["contamination"] = {"n": int(overlap.sum()), "share": float(overlap.mean())}
        for name, side in (("overlapping", overlap), ("clean", ~overlap)):
            if side.any():
                found["contamination"][name] = score(np.asarray(values)[side])
    return found


def _of_part(part: str, results: Mapping[str, Any], metric: str) -> list:
    """One value per item, of the first filter."""
    samples = sorted(results["samples"][part], key=lambda sample: sample["doc_id"])
    first = samples[0]["filter"]
    return [sample.get(metric) for sample in samples if sample["filter"] == first]


def _values(task: Task, results: Mapping[str, Any], metric: str) -> list[float] | None:
    """Over all items, where the metric is a mean of numbers."""
    means = all(getattr(part.aggregation().get(metric), "__name__", "") == "mean" for part in task.parts)
    found = [value for part in task.parts for value in _of_part(part.task_name, results, metric)]
    return found if means and all(isinstance(value, int | float) for value in found) else None


def _whole(task: Task, results: Mapping[str, Any], metric: str) -> dict:
    found = results["results"][task.parts[0].task_name]
    by_name = {name.partition(",")[0]: value for name, value in reversed(found.items())}
    names = {"value": metric, "stderr": f"{metric}_stderr"}
    return {key: by_name[name] for key, name in names.items() if isinstance(by_name.get(name), float)}


def groups_of(tasks: Mapping[str, dict], hub: bool) -> dict[str, dict]:
    """The papers' columns: of a group of which all tasks were measured, the mean of their scores."""
    found = {}
    for group in catalogue()["groups"]:
        names = members(group, hub)
        if names and all(name in tasks for name in names):
            scored = [tasks[name] for name in names]
            error = math.sqrt(sum(one.get("stderr", 0.0) ** 2 for one in scored)) / len(scored)
            value = sum(one["value"] for one in scored) / len(scored)
            ends = {"low": value - Z95 * error, "high": value + Z95 * error}
            title = catalogue()["groups"][group]["title"]
            found[group] = {"title": title, "value": value, **ends, "stderr": error, "tasks": names}
    return found


def markdown(metrics: Mapping[str, Any]) -> str:
    """`report.benchmarks.tables` in Markdown."""
    lines = []
    for table in tables(metrics):
        lines += [f"| | {' | '.join(table.headings)} |", "|---" * (len(table.headings) + 1) + "|"]
        for name, cells in zip(table.names, table.cells, strict=True):
            lines.append(f"| {name} | {' | '.join(f'{cell.text} {cell.detail}'.strip() for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)
