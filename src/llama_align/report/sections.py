"""What the page shows beside its tables: pictures and sample dialogs, each list empty where its inputs are missing."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from markupsafe import Markup

from ..chat import as_text
from . import figures
from .inputs import Evaluation, Step, is_number, pick
from .labels import SCHEDULES, curve_place, is_known, panel_order, pretty
from .stages import baseline_of

_REWARD, _KL = ("objective/scores", "reward"), ("objective/kl", "kl")
_PROMPTS = 12


@dataclass(frozen=True, repr=False)
class Picture:
    """Shown by a notebook as it is."""

    title: str
    svg: Markup
    later: bool = False  # shown on demand

    def _repr_svg_(self) -> str:
        return figures.sheet([(self.title, self.svg)])

    def __repr__(self) -> str:
        return f"Picture({self.title!r})"


def score_picture(evaluation: Evaluation) -> list[Picture]:
    """Every row's score with its interval."""
    scores = {}
    for name, row in zip(evaluation.names, evaluation.metrics["rows"], strict=True):
        values = [pick(evaluation.where, row, f"score.{key}") for key in ("mean", "low", "high")]
        if None not in values:
            scores[name] = tuple(values)
    label = f"Score by stage, {evaluation.step}"
    return [Picture("Score and its 95% interval", figures.intervals(label, scores))] if scores else []


def learning_curves(step: Step) -> list[Picture]:
    """Small multiples of all that a trainer logged: results first, rates and the rest for those who ask."""
    panels: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(key for row in step.log for key in row):
        if (place := curve_place(key)) and _is_curve(step, key):
            title, label = place
            of_panel = panels.setdefault(title, {})
            of_panel[pretty(key) if label in of_panel else label] = key
    pictures = []
    for title in sorted(panels, key=panel_order):
        lines = {label: tuple(zip(*_series(step, key), strict=True)) for label, key in panels[title].items()}
        svg = figures.curves(f"{title}, {step.name}", lines, title not in SCHEDULES)
        pictures.append(Picture(title, svg, later=panel_order(title)[0]))
    return pictures


def _is_curve(step: Step, key: str) -> bool:
    values = [row[key] for row in step.log if row.get(key) is not None]
    return bool(values) and (is_known(key) or all(is_number(value) for value in values))


def _series(step: Step, name: str) -> list[tuple[float, float]]:
    where = str(step.directory / "log.jsonl")
    points = []
    for i, row in enumerate(step.log):
        if (value := pick(where, row, name)) is not None:
            at = pick(where, row, "step")
            points.append((i if at is None else at, value))
    return points


def kl_against_reward(step: Step) -> list[Picture]:
    """The course of a policy through KL and reward, from the rows of its log that hold both."""
    where = str(step.directory / "log.jsonl")
    for kl, reward in product(_KL, _REWARD):
        pairs = [(pick(where, row, kl), pick(where, row, reward)) for row in step.log]
        pairs = [pair for pair in pairs if None not in pair]
        if len(pairs) > 1:
            label = f"KL against reward, {step.name}"
            svg = figures.path(label, *zip(*pairs, strict=True), "KL to the reference", "reward")
            return [Picture(step.name, svg)]
    return []


def reward_distributions(evaluation: Evaluation) -> list[Picture]:
    """Rewards of the SFT model's answers against the last model's, one picture per reward model."""
    names = evaluation.names
    compared = list(dict.fromkeys([baseline_of(evaluation.metrics, names) or names[0], names[-1]])) if names else []
    groups: dict[str, dict[str, list[float]]] = {}
    for row in compared:
        where = str(evaluation.directory / f"{row}.json")
        details = evaluation.details.get(row, {})
        for reward in pick(where, details, "rewards", "an object") or {}:
            if values := pick(where, details["rewards"], reward, "a list of finite numbers"):
                groups.setdefault(reward, {})[row] = values
    return [
        Picture(pretty(reward).capitalize(), figures.distributions(f"Rewards by {reward}, {evaluation.step}", values))
        for reward, values in groups.items()
    ]


def reward_model_pictures(step: Step) -> list[Picture]:
    """Accuracy by grade and calibration of a step whose metrics.json has "by_grade"."""
    if not step.metrics or "by_grade" not in step.metrics:
        return []
    where, name = step.where, pick(step.where, step.metrics, "objective", "text") or step.name
    overall = pick(where, step.metrics, "accuracy")
    title = name.capitalize() + ("" if overall is None else f": {100 * overall:.1f}% of pairs right")
    grades = pick(where, step.metrics, "by_grade", "an object")
    for grade, row in grades.items():
        for key, required in (("accuracy", True), ("n", True), ("longer_wins", False)):
            pick(f"{where}, by_grade.{grade}", row, key, required=required)
    bins = pick(where, step.metrics, "reliability", "a list of objects") or []
    for row in bins:
        for key in ("confidence", "accuracy", "n"):
            pick(f"{where}, reliability", row, key, required=True)
    pictures = [Picture(title, figures.accuracy_by_grade(f"Accuracy by grade, {step.name}", grades))] if grades else []
    if sum(row["n"] for row in bins):
        pictures.append(
            Picture(f"{name.capitalize()}: calibration", figures.reliability(f"Calibration, {step.name}", bins))
        )
    return pictures


def best_of_k_pictures(step: Step) -> list[Picture]:
    """Expected best reward against the number of answers: of the temperature search, and of the sampling itself."""
    pictures = []
    for field, title in (("temperature_search.curves", "Temperature search"), ("best_of_k", "Sampling")):
        rows = pick(step.where, step.metrics or {}, field, "a list of objects") or []
        curves = {curve_name(step.where, row, rows): row for row in rows}
        if not curves:
            continue
        label = f"{title}, {step.name}"
        pictures.append(Picture(f"{title}: best of k", figures.best_of_k(label, curves)))
        for judge in pick(step.where, rows[0], "heldout", "an object") or {}:
            svg = figures.best_of_k(f"{label}, {judge}", curves, judge)
            pictures.append(Picture(f"{title}: {pretty(judge.removeprefix('heldout/'))} of the answer chosen", svg))
    return pictures


def curve_name(where: str, row: dict, rows: Sequence[dict]) -> str:
    """A curve by its temperature, and its checkpoint where there are several; RecordError for what is no curve."""
    for field in ("k", "best", "median"):
        pick(where, row, field, "a list of finite numbers", required=True)
    heat = f"T = {pick(where, row, 'temperature', required=True):g}"
    several = len({pick(where, other, "checkpoint", "text", required=True) for other in rows}) > 1
    return f"{row['checkpoint']}, {heat}" if several else heat


def dialogs(evaluation: Evaluation) -> list[dict]:
    """Up to twelve prompts every sampled row answered, evenly spread over the first row's file.

    Each is {"messages", "family", "answers": [{"row", "completion", "marks": [(text, good or bad)]}]}.
    """
    answers = {
        row: {_key(sample): sample for sample in reversed(samples)}  # the first answer to a prompt is kept
        for row in evaluation.names
        if (samples := evaluation.samples.get(row))
    }
    if not answers:
        return []
    first = next(iter(answers.values()))
    shared = [key for key in reversed(first) if all(key in found for found in answers.values())]
    return [
        {
            "messages": [message | {"content": as_text(message)} for message in first[key]["prompt"]],
            "family": (first[key].get("task") or {}).get("family"),
            "answers": [
                {"row": row, "completion": as_text(found[key]["completion"]), "marks": list(_marks(found[key]))}
                for row, found in answers.items()
            ],
        }
        for key in _spread(shared, _PROMPTS)
    ]


def _key(sample: dict) -> str:
    return json.dumps(sample["prompt"], sort_keys=True)


def _spread(values: Sequence, n: int) -> list:
    n = min(n, len(values))
    return [values[i * len(values) // n] for i in range(n)]


def _marks(sample: dict) -> Iterator[tuple[str, str]]:
    if sample.get("helpful") is not None:
        yield ("helpful", "good") if sample["helpful"] else ("not helpful", "bad")
    for name, text in (("violation", "violation"), ("false_refusal", "false refusal")):
        if sample.get(name):
            yield text, "bad"
