"""A run of rounds as one repository: a branch per round, a tag per stage; its preferences and samples as data sets."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi

from ..runtime.overview import read_overview
from .card import Place
from .checkpoint import items_of, made_of, origin_of
from .datasets import dataset_items, publish_dataset
from .files import Item, is_checkpoint
from .hub import Target, address, commit, prepare
from .licences import Origin
from .made import RECIPES, History, Made, history, joined, started_from

RECORDS = {"preferences": "annotate", "samples": "rejection_sampling"}  # file of a step -> its recipe

MEASURED = {"evaluate": "rows", "choose": "candidates", "benchmark": "checkpoints"}  # recipe -> its metrics' rows


@dataclass
class Stage:
    """A finished step that left a checkpoint."""

    name: str
    recipe: str
    folder: Path
    round: int | None
    config: dict[str, Any]

    @property
    def starts(self) -> list[str]:
        """The checkpoints it was made from."""
        models = self.config.get("models") or []
        if self.recipe == "choose":  # made from one of them
            models = [models[json.loads((self.folder / "metrics.json").read_text("utf-8"))["chosen"]]]
        models = list(models.values()) if isinstance(models, dict) else models
        return [path for path in (self.config.get("model_name_or_path"), *models) if isinstance(path, str)]


@dataclass
class Programme:
    """A run's folder, as its `run.json` says."""

    folder: Path

    def __post_init__(self):
        found = read_overview(self.folder)
        self.name, self.rows = str(found["name"]), found["steps"]

    def _finished(self) -> Iterator[tuple[dict, Path]]:
        for row in self.rows:
            folder = self.folder / row["directory"]
            if row["status"] == "finished" and (folder / "step.json").is_file():
                yield row, folder

    @cached_property
    def checkpoints(self) -> dict[str, Stage]:
        """Finished steps with a checkpoint, by the names of their folders, as they were run."""
        found = {}
        for row, folder in self._finished():
            if is_checkpoint(folder):
                config = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
                found[folder.name] = Stage(row["name"], row["recipe"], folder, row.get("round"), config)
        return found

    @cached_property
    def stages(self) -> list[Stage]:
        """As they are published: those before the rounds first, of a round its policies last."""
        rows, last = [], 0
        for stage in self.checkpoints.values():
            last = max(last, stage.round or 0)  # what follows a round and is of none stands behind it
            rows.append((last, self.made(stage).auto == "AutoModelForCausalLM", stage))
        return [stage for *_, stage in sorted(rows, key=lambda row: row[:2])]

    def made(self, stage: Stage) -> Made:
        """How a stage's checkpoint came to be, all that it was made from within the run included."""
        made = recorded = made_of(stage.folder)
        earlier, origin = joined(self._history(started_from(start)[1]) for start in stage.starts)
        if not made.stage:  # of a recipe that leaves no record of its own
            what, kind = RECIPES.get(stage.recipe, (made.what, ""))
            paths = [str(source.get("path", source)) for source in stage.config.get("datasets") or []]
            facts = replace(made.facts, settings=stage.config, data={kind: paths} if kind else {})
            about = {"what": what, "base": stage.config.get("model_name_or_path") or "", "facts": facts}
            made = replace(made, stage=stage.recipe, tags=[*made.tags, stage.recipe], **about)
        return replace(made, earlier=earlier, origin=origin or (recorded.origin if recorded.stage else None))

    def _history(self, start: str) -> History:
        inside = self.checkpoints.get(Path(start).name)
        if not inside:
            return history(start)
        made = self.made(inside)
        return [*made.earlier, made.as_stage], made.origin

    def measured(self, stage: Stage) -> dict[str, dict]:
        """What finished steps of evaluation found of a stage's checkpoint, by their names."""
        found = {}
        for row, folder in self._finished():
            if row["recipe"] not in MEASURED or folder == stage.folder:
                continue
            models = yaml.safe_load((folder / "config.yaml").read_text("utf-8")).get("models") or {}
            names = {name for name, path in models.items() if Path(path).name == stage.folder.name}
            metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
            for part in metrics[MEASURED[row["recipe"]]]:
                if part.get("row", part.get("name")) in names:
                    found[row["name"]] = {key: value for key, value in part.items() if key not in ("row", "name")}
        return found

    def branch(self, stage: Stage) -> str | None:
        """The branch a stage is on; None: main."""
        return None if stage.round is None else f"round-{stage.round}"

    @property
    def revisions(self) -> dict[str, str]:
        """What every tag and branch holds."""
        tags = {stage.name: self.made(stage).what for stage in self.stages}
        heads = {self.branch(stage): f"as {stage.name}, the last of that round" for stage in self.stages if stage.round}
        return tags | heads | {"main": f"as {self.last.name}"}

    @property
    def last(self) -> Stage:
        """The policy that the programme came to."""
        return self.stages[-1]

    def records(self, name: str) -> dict[str, Path]:
        """Files of records by the part of a data set that they are."""
        return {
            row["name"]: folder / f"{name}.jsonl"
            for row, folder in self._finished()
            if row["recipe"] == RECORDS[name] and (folder / f"{name}.jsonl").is_file()
        }

    def items(self, stage: Stage, target: Target, revision: str | None = None) -> list[Item]:
        """The files of a stage's checkpoint, see `checkpoint.items_of`."""
        place = Place(target.repo.split("/")[-1], target.repo, revision, measured=self.measured(stage))
        if revision is None:
            place.revisions = self.revisions
        else:
            place.name = f"{place.name}, {stage.name}"
        return items_of(stage.folder, target, self.made(stage), place, str(self.folder.resolve()))

    def origin(self, target: Target) -> Origin | None:
        """The model of others that the programme began with."""
        return next(filter(None, (origin_of(self.made(stage), target) for stage in self.stages)), None)


def publish_programme(folder: Path, target: Target, data: bool = True) -> list[str]:
    """Publishes all finished stages of a run, and with `data` its records; returns the addresses.

    A stage whose tag holds the same files is left as it is; one behind another that has changed is committed again,
    so that a branch ends with the last stage of its round.

    Raises:
        ValueError: no finished checkpoint, or see `checkpoint.items_of` and `hub.prepare`.
    """
    run = Programme(folder)
    if not run.stages:
        raise ValueError(f"{folder}: found no finished step with a checkpoint, expected one")
    if target.revision:
        raise ValueError(f"revision: found {target.revision} for a programme, expected none; each round has a branch")
    for stage in run.stages:  # before anything is made on the Hub
        run.items(stage, target, stage.name)
    target = replace(target, repo=prepare(target, run.origin(target)))
    made, api = set(), HfApi()
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(target.repo).tags}
    for stage in run.stages:
        branch, items = run.branch(stage), run.items(stage, target, stage.name)
        title = f"{stage.folder.name} {_digest(items)[:16]}"
        if branch not in made and stage.name in tags and _title(api, target.repo, stage.name) == title:
            print(f"{stage.name}: there already", flush=True)
            continue
        made.add(branch)
        place = commit(target.repo, items, title, branch)
        if stage.name in tags:
            api.delete_tag(target.repo, tag=stage.name)
        api.create_tag(target.repo, tag=stage.name, revision=place)
        print(f"{stage.name}: published on {branch or 'main'}", flush=True)
    commit(target.repo, run.items(run.last, target), f"{run.name}: {run.last.folder.name}")
    return [address(target.repo), *(_records(run, target) if data else ())]


def _records(run: Programme, target: Target) -> Iterator[str]:
    for name in RECORDS:
        if files := run.records(name):
            own = replace(target, repo=f"{target.repo}-{name}", gated=None)
            yield publish_dataset(files, own, str(run.folder.resolve()), f"the programme {run.name}")


def listing(folder: Path, target: Target, data: bool) -> dict[str, list[Item]]:
    """What `publish_programme` would send, by repository and revision."""
    run = Programme(folder)
    found = {f"{target.repo}@{stage.name}": run.items(stage, target, stage.name) for stage in run.stages}
    found[f"{target.repo}@main"] = run.items(run.last, target)
    for name in RECORDS if data else ():
        if files := run.records(name):
            repo = f"{target.repo}-{name}"
            found[repo] = dataset_items(files, repo, target.licence, str(run.folder.resolve()))
    return found


def _digest(items: list[Item]) -> str:
    rows = sorted((item.path, item.sha256) for item in items)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _title(api: HfApi, repo: str, tag: str) -> str:
    return api.list_repo_commits(repo, revision=tag)[0].title
