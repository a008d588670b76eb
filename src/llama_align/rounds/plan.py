"""A chain of steps as a YAML names it, and the identity of each: the hash of its configuration and its inputs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..data import SourceError
from ..data.opening import expand as expand_path
from ..recipe.bounds import BOUNDS, shown
from ..recipe.paths import PATHS
from ..recipe.yaml_files import YamlFile
from ..runtime.identity import canonical
from ..runtime.manifest import file_digest
from ..runtime.shipped import launch_file
from ..runtime.trackers import check_tracker
from .expand import expand
from .references import found_in, references, strings, texts
from .steps import PlanError, Step, check_text, read_steps, read_yaml

WITHOUT_SEED = ("average", "curate", "tokenise")  # no random number is drawn there


@dataclass
class Plan:
    """The steps of a run, in order, each with its final configuration still holding `{name}` references."""

    path: Path
    name: str
    seed: int
    steps: list[Step]
    configs: dict[str, dict]
    tracker: str | None = None

    @classmethod
    def load(cls, path: str | Path, recipes: str | Path, seed: int | None = None, launch: str | None = None) -> "Plan":
        """Reads a plan; `seed` and `launch` stand for the plan's own. A plan's seed is added to that of every step.

        A round's number less one is added to the seeds of its steps.

        Raises:
            PlanError: an unknown key, recipe or reference, a seed that is no integer of at least 0, a name used twice,
                or a step before what it refers to.
        """
        path = Path(path)
        file = read_yaml(path)
        if unknown := sorted(set(file.content) - {"name", "seed", "steps", "launch", "tracker"}):
            raise PlanError(f"{file.where(unknown[0])}: unknown, expected only name, seed, launch, tracker, steps")
        name = file.content.get("name", path.stem)
        own = _seed(file.where("seed"), file.content.get("seed", 0) if seed is None else seed)
        launch = file.content.get("launch") if launch is None else launch
        for key, value in (("name", name), ("launch", launch)):
            if key == "name" or value is not None:
                check_text(file.where(key), value)
        tracker = file.content.get("tracker")
        try:
            check_tracker("none" if tracker is None else tracker)
        except ValueError as error:
            raise PlanError(f"{file.where('tracker')}: {error}") from error
        plan = cls(path, name, own, expand(read_steps(file, launch)), {}, tracker)
        known = sorted({p.stem for p in Path(recipes).glob("*.py")} - {"rounds"})
        for step in plan.steps:
            plan._add(step, known)
        return plan

    def _add(self, step: Step, recipes: list[str]) -> None:
        if step.recipe not in recipes:
            raise PlanError(f"{step.where('recipe')}: found {step.recipe!r}, expected one of {', '.join(recipes)}")
        if step.launch is not None:
            if (launch := launch_file(step.launch)) is None:
                found = f"found no file {step.launch!r}, expected a configuration of accelerate"
                raise PlanError(f"{step.where('launch')}: {found}")
            step.launch = str(launch)
        if "output_dir" in step.set:
            place = step.where_option("output_dir")
            raise PlanError(f"{place}: found one, expected none; a step writes into the run's")
        stage = read_yaml(self.path.parent / step.config) if step.config else YamlFile(self.path)
        for keys, text in texts({key: value for key, value in stage.content.items() if key not in step.set}):
            for name, which in found_in(text):
                if which or name not in self.configs:
                    found = f"{{{name}@{which}}}" if which else f"{{{name}}}"
                    raise PlanError(f"{stage.where(*keys)}: found {found}, expected the name of an earlier step")
        config = stage.content | step.set
        if step.recipe not in WITHOUT_SEED:
            place = step.where_option("seed") if "seed" in step.set else stage.where("seed")
            # added, so that steps that differ by their seeds alone still do, as do the rounds
            config["seed"] = self.seed + _seed(place, config.get("seed", 0)) + (step.round or 1) - 1
        self.configs[step.name] = config

    def inputs(self, name: str) -> list[str]:
        """Names of the steps a step refers to."""
        return sorted(set(references(self.configs[name])))

    def identities(self) -> dict[str, str]:
        """Step name -> hash over its recipe, configuration, the steps and local files it names, and the version."""
        digests: dict[str, str] = {}
        for step in self.steps:
            config = {k: v for k, v in self.configs[step.name].items() if k not in ("output_dir", "tracker")}
            parts = {
                "version": __version__,
                "recipe": step.recipe,
                "config": canonical(config),
                "steps": {name: digests[name] for name in self.inputs(step.name)},
                "files": {text: _file_digest(path) for text, path in _inputs(config)},
            }
            # of a launch the precision decides the results; how many processes it starts does not
            if (precision := _precision(step.launch)) != "no":
                parts["mixed_precision"] = precision
            digests[step.name] = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        return digests


def _precision(launch: str | None) -> str:
    return "no" if launch is None else str(read_yaml(Path(launch)).content.get("mixed_precision") or "no")


def _seed(where: str, value: Any) -> int:
    if type(value) is not int or not BOUNDS["seed"].fits(value):
        raise PlanError(f"{where}: found {shown(value)}, expected a whole number {BOUNDS['seed']}")
    return value


def _inputs(config: dict) -> Iterator[tuple[str, Path]]:
    named = {text for keys, text in texts(config) if any(key in PATHS or key == "path" for key in keys)}
    for text in sorted(set(strings(config))):
        # a text that names no file: one too long for a name, or a $ that is no variable; the recipe says so of a path
        with suppress(OSError, SourceError):
            path = Path(expand_path(text))
            # a word such as "auto" may be the name of a folder by chance, where its option names no path
            if path.is_file() or (("/" in text or text in named) and path.is_dir()):
                yield text, path


def _file_digest(path: Path) -> str:
    if path.is_dir():
        rows = [(str(p.relative_to(path)), _file_digest(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return file_digest(path)
