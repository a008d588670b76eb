"""Tasks for the harness: ours, on local files (tasks.yaml), and its own by their names."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from ..data.opening import expand, open_rows
from ..data.records import RecordError
from ..recipe import RecipeError
from ..recipe.bounds import shown
from .catalogue import Settings, Task, catalogue, members
from .forms import CHECKS, FORMS

FILES = "${LLAMA_ALIGN_SHARED:-../shared}/data/eval"
PREFERRED = ("acc_norm", "acc", "exact_match", "pass@1", "f1", "em")  # of the harness's own, the one that is shown
LOWER = ("nll",)
OURS = "herd_"  # what names of ours begin with; the harness's are looked for among thousands of files


def load_tasks(names: Sequence[str], settings: Settings) -> list[Task]:
    """Tasks by the names of groups of ours, of ours, and of the harness's; each once, in order.

    Raises:
        RecipeError: an unknown name, an empty group, files that are not there, or programs that may not be run.
    """
    wanted = []
    for name in names:
        found = members(name, settings.hub) if name in catalogue()["groups"] else [name]
        if not found:
            raise RecipeError(f"tasks: found {name!r}, which has none on local files, expected hub: true beside it")
        wanted += found
    return [_load(name, settings) for name in dict.fromkeys(wanted)]


def _load(name: str, settings: Settings) -> Task:
    if name in catalogue()["tasks"]:
        return _ours(name, catalogue()["tasks"][name], settings)
    try:
        if name.startswith(OURS):
            raise KeyError(name)
        parts = list(_manager(settings.include).load([name])["tasks"].values())
    except KeyError as error:
        ours = ", ".join([*catalogue()["groups"], *catalogue()["tasks"]])
        found = f"found {shown(name)}, expected one of ours ({ours}) or of lm-evaluation-harness"
        raise RecipeError(f"tasks: {found}") from error
    except (OSError, ValueError) as error:
        raise RecipeError(f"tasks, {name}: found no data set that loads ({error}), expected the Hub's") from error
    if any(part.config.unsafe_code for part in parts):
        found = f"found {name}, whose programs the harness runs without shutting them in"
        raise RecipeError(f"tasks: {found}, expected herd_humaneval")
    for part in parts:
        part.config.num_fewshot = part.config.num_fewshot or 0
    metrics = list(parts[0].aggregation())
    return Task(name, parts, tuple(sorted(metrics, key=lambda metric: metric not in PREFERRED)))


@cache
def _manager(include: str | None) -> TaskManager:
    return TaskManager(include_path=include)


def _ours(name: str, spec: Mapping[str, Any], settings: Settings) -> Task:
    if spec["form"] == "program" and not settings.run:
        raise RecipeError(f"tasks: found {name}, which runs programs that the model wrote, expected run_code: true")
    rows, shots = _rows(spec["files"]), spec.get("shots")
    shots = _rows(shots) if isinstance(shots, str) else shots
    check, metrics = CHECKS[spec["form"]]
    if spec["form"] == "program" and settings.programs > 1:
        metrics = (*metrics, f"pass@{settings.programs}")
    metrics = tuple(sorted(metrics, key=lambda metric: metric != spec.get("metric", metrics[0])))
    parts = []
    for value in _values(rows, spec.get("by")):
        own, examples = ([row for row in some if _is(row, spec, value)] for some in (rows, _listed(shots)))
        if isinstance(shots, int):
            own, examples = own[shots:], own[:shots]
        config = _config(spec, settings, metrics, check) | {"custom_dataset": _data(spec, own, examples)}
        by = str(value).replace("_", " ")
        config |= {"task": name if value is None else f"{name}_{value}"}
        config |= {"description": spec.get("description", "").replace("{by}", by)}
        parts.append(ConfigurableTask(config=config))
    return Task(name, parts, metrics)


def _listed(shots: list[dict] | int | None) -> list[dict]:
    return shots if isinstance(shots, list) else []


def _rows(file: str) -> list[dict]:
    path = os.path.normpath(expand(f"{FILES}/{file}"))
    if not os.path.isfile(path):
        raise RecipeError(f"tasks: found no file {path}, expected one; LLAMA_ALIGN_SHARED names the folder above data")
    return [_read(row) for _, row in open_rows(path)]


def _read(row: dict | RecordError) -> dict:
    if isinstance(row, RecordError):
        raise row
    return row


def _values(rows: list[dict], by: str | None) -> Iterator[Any]:
    yield from dict.fromkeys(row[by] for row in rows) if by else [None]


def _is(row: dict, spec: Mapping[str, Any], value: Any) -> bool:
    return value is None or row.get(spec["by"], value) == value


def _data(spec: Mapping[str, Any], rows: list[dict], shots: list[dict]) -> Callable:
    form = FORMS[spec["form"]]
    parts = {"test": rows, "shots": shots} if shots else {"test": rows}
    made = {part: datasets.Dataset.from_list([form(row) for row in some]) for part, some in parts.items()}
    return lambda **_: made


def _config(spec: Mapping[str, Any], settings: Settings, metrics: Sequence[str], check: Callable) -> dict[str, Any]:
    """Of a task by its form, as the harness's YAML has it."""
    form, shots = spec["form"], spec.get("fewshot", 0)
    listed = [{"metric": one, "aggregation": "mean", "higher_is_better": one not in LOWER} for one in metrics]
    config = {"test_split": "test", "process_results": check, "metric_list": listed, "num_fewshot": shots}
    config |= {"doc_to_text": "prompt", "doc_to_target": "target", "metadata": {"version": 1.0}}
    if shots:
        config |= {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}}
    if form in ("choices", "lettered", "truthful", "biased"):
        return config | {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}
    if form == "schema":
        return config | {"output_type": "multiple_choice", "doc_to_choice": "choices"}
    if form == "ending":
        return config | {"output_type": "loglikelihood"}
    longest, heat = min(spec["longest"], settings.longest or spec["longest"]), spec.get("temperature", 0.0)
    asked = {"until": spec["until"], "max_gen_toks": longest, "do_sample": heat > 0, "temperature": heat}
    config |= {"output_type": "generate_until", "generation_kwargs": asked}
    if form != "program":
        return config
    every = [{"name": "none", "filter": [{"function": "take_first_k", "k": settings.programs}]}]
    return config | {"repeats": settings.programs, "filter_list": every, "unsafe_code": True}
