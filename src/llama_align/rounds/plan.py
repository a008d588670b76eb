"""A chain of steps as a YAML names it, and the identity of each: the hash of its configuration and its inputs."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..recipe.bounds import BOUNDS, shown
from ..recipe.yaml_files import YamlFile
from ..runtime.identity import canonical
from ..runtime.shipped import launch_file
from ..runtime.trackers import check_tracker
from .code import code_of
from .expand import expand
from .inputs import Digests, named_files
from .references import found_in, references, texts
from .steps import EXECUTORS, KEYS_OF_A_PLAN, PlanError, Step, check_text, read_steps, read_yaml

WITHOUT_SEED = ("average", "curate", "tokenise")  # no random number is drawn there


@dataclass(frozen=True)
class Identity:
    """What a step's result follows from, as digests.

    settings: its recipe and configuration, the files that it names, its precision and the settings of the steps that it
    refers to. code: what its recipe runs. whole: of both, and of the whole of those steps. files: text -> digest.
    """

    whole: str
    settings: str
    code: str
    files: dict[str, str] = field(hash=False)


@dataclass
class Plan:
    """The steps of a run, in order, each with its final configuration still holding `{name}` references.

    recipes: the folder of their scripts. executor: how they are run. accept_older: take for finished what older code
    has made of the same settings.
    """

    path: Path
    recipes: Path
    name: str
    seed: int
    steps: list[Step]
    configs: dict[str, dict]
    executor: str = EXECUTORS[0]
    accept_older: bool = False
    tracker: str | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        recipes: str | Path,
        seed: int | None = None,
        launch: str | None = None,
        executor: str | None = None,
        accept_older: bool = False,
    ) -> "Plan":
        """Reads a plan; `seed`, `launch` and `executor` stand for its own. Its seed is added to that of every step.

        A round's number less one is added to the seeds of its steps.

        Raises:
            PlanError: an unknown key, recipe or reference, a seed that is no integer of at least 0, a name used twice,
                or a step before what it refers to.
        """
        path = Path(path)
        file = read_yaml(path)
        if unknown := sorted(set(file.content) - set(KEYS_OF_A_PLAN)):
            raise PlanError(f"{file.where(unknown[0])}: unknown, expected only {', '.join(KEYS_OF_A_PLAN)}")
        name = file.content.get("name", path.stem)
        own = _seed(file.where("seed"), file.content.get("seed", 0) if seed is None else seed)
        launch = file.content.get("launch") if launch is None else launch
        for key, value in (("name", name), ("launch", launch)):
            if key == "name" or value is not None:
                check_text(file.where(key), value)
        executor = file.content.get("executor", EXECUTORS[0]) if executor is None else executor
        if executor not in EXECUTORS:
            found = f"found {shown(executor)}, expected one of {', '.join(EXECUTORS)}"
            raise PlanError(f"{file.where('executor')}: {found}")
        older = accept_older or file.content.get("accept_older", False)
        if type(older) is not bool:
            raise PlanError(f"{file.where('accept_older')}: found {shown(older)}, expected true or false")
        tracker = file.content.get("tracker")
        try:
            check_tracker("none" if tracker is None else tracker)
        except ValueError as error:
            raise PlanError(f"{file.where('tracker')}: {error}") from error
        plan = cls(path, Path(recipes), name, own, expand(read_steps(file, launch)), {}, executor, older, tracker)
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
        if "array" in step.resources and config.get("temperature_search"):
            found = "found it with temperature_search, expected one of them; the search comes before all shards"
            raise PlanError(f"{step.where('resources', 'array')}: {found}")
        self.configs[step.name] = config

    def inputs(self, name: str) -> list[str]:
        """Names of the steps a step refers to."""
        return sorted(set(references(self.configs[name])))

    def identities(self, digests: Digests | None = None) -> dict[str, Identity]:
        """What the result of each step follows from."""
        digests = digests or Digests()
        recipes = {step.recipe for step in self.steps}
        code = {name: code_of((self.recipes / f"{name}.py").resolve()) for name in recipes}
        found: dict[str, Identity] = {}
        for step in self.steps:
            config = {k: v for k, v in self.configs[step.name].items() if k not in ("output_dir", "tracker")}
            before = {name: found[name] for name in self.inputs(step.name)}
            files = {text: digests.of(path) for text, path in named_files(config)}
            parts = {
                "recipe": step.recipe,
                "config": canonical(config),
                "steps": {name: one.settings for name, one in before.items()},
                "files": files,
            }
            # of a launch the precision decides the results; how many processes it starts does not
            if (precision := _precision(step.launch)) != "no":
                parts["mixed_precision"] = precision
            settings, own = _digest(parts), code[step.recipe]
            whole = {"settings": settings, "code": own, "steps": {name: one.whole for name, one in before.items()}}
            found[step.name] = Identity(_digest(whole), settings, own, files)
        return found


def _digest(parts: dict) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _precision(launch: str | None) -> str:
    return "no" if launch is None else str(read_yaml(Path(launch)).content.get("mixed_precision") or "no")


def _seed(where: str, value: Any) -> int:
    if type(value) is not int or not BOUNDS["seed"].fits(value):
        raise PlanError(f"{where}: found {shown(value)}, expected a whole number {BOUNDS['seed']}")
    return value
