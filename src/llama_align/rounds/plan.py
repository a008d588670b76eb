"""A chain of steps as a YAML names it, and the identity of each: the hash of its configuration and its inputs."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..data import SourceError
from ..data.opening import expand
from ..recipe import RecipeError, yaml_files
from ..recipe.bounds import BOUNDS, shown
from ..recipe.paths import PATHS
from ..recipe.yaml_files import YamlFile, field_name
from ..runtime.identity import canonical
from ..runtime.manifest import file_digest

REFERENCE = re.compile(r"(?<!\$)\{([A-Za-z0-9_-]+)\}")  # ${NAME} is the environment's
LAUNCHED = (
    "pretrain",
    "sft",
    "reward",
    "ppo",
    "dpo",
    "rejection_sampling",
)  # the recipes that share their work among processes
WITHOUT_SEED = ("average", "curate")  # no random number is drawn there
COLUMNS = "columns"  # templates over a data source's columns are written in braces, too
LONGEST = 100  # characters of a step's name, which a directory's begins with
NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{LONGEST}}}")


class PlanError(ValueError):
    """A plan that cannot be run; the message names file, line, step and field."""


@dataclass
class Step:
    """One stage of a run.

    name: unique; other steps refer to its directory as `{name}`. recipe: a script of recipes/. config: its YAML,
    relative to the plan. set: options that differ from the YAML. launch: accelerate configuration (none: one
    process); the plan's own is the default of the recipes that train.
    """

    name: str
    recipe: str
    config: str | None = None
    set: dict[str, Any] = field(default_factory=dict)
    launch: str | None = None


@dataclass
class Plan:
    """The steps of a run, in order, each with its final configuration still holding `{name}` references."""

    path: Path
    name: str
    seed: int
    steps: list[Step]
    configs: dict[str, dict]

    @classmethod
    def load(cls, path: str | Path, recipes: str | Path, seed: int | None = None, launch: str | None = None) -> "Plan":
        """Reads a plan; `seed` and `launch` stand for the plan's own. A plan's seed is added to that of every step.

        Raises:
            PlanError: an unknown key, recipe or reference, a seed that is no integer of at least 0, a name used twice,
                or a step before what it refers to.
        """
        path = Path(path)
        file = read_yaml(path)
        if unknown := sorted(set(file.content) - {"name", "seed", "steps", "launch"}):
            raise PlanError(f"{file.where(unknown[0])}: unknown, expected only name, seed, launch, steps")
        name = file.content.get("name", path.stem)
        own = _seed(file.where("seed"), file.content.get("seed", 0) if seed is None else seed)
        launch = file.content.get("launch") if launch is None else launch
        for key, value in (("name", name), ("launch", launch)):
            if key == "name" or value is not None:
                _check_text(file.where(key), value)
        rows = file.content.get("steps")
        if not isinstance(rows, list) or not rows:
            raise PlanError(f"{file.where('steps')}: found {shown(rows)}, expected a list of steps")
        plan = cls(path, name, own, [_step(file, number, row, launch) for number, row in enumerate(rows)], {})
        for number, step in enumerate(plan.steps):
            plan._add(file, number, step, Path(recipes))
        return plan

    def _add(self, file: YamlFile, number: int, step: Step, recipes: Path) -> None:
        where = partial(_where, file, number, step.name)
        if step.name in self.configs:
            raise PlanError(f"{where('name')}: found the name twice, expected names that differ")
        known = sorted({p.stem for p in recipes.glob("*.py")} - {"rounds"})
        if step.recipe not in known:
            raise PlanError(f"{where('recipe')}: found {step.recipe!r}, expected one of {', '.join(known)}")
        if step.launch is not None and not Path(step.launch).is_file():
            raise PlanError(f"{where('launch')}: found no file {step.launch!r}, expected a configuration of accelerate")
        if "output_dir" in step.set:
            raise PlanError(f"{where('set', 'output_dir')}: found one, expected none; a step writes into the run's")
        stage = read_yaml(self.path.parent / step.config) if step.config else YamlFile(self.path)
        kept = {key: value for key, value in stage.content.items() if key not in step.set}
        for options, place in ((kept, stage.where), (step.set, partial(where, "set"))):
            for keys, text in _texts(options):
                if unknown := [name for name in REFERENCE.findall(text) if name not in self.configs]:
                    raise PlanError(f"{place(*keys)}: found {{{unknown[0]}}}, expected the name of an earlier step")
        config = stage.content | step.set
        if step.recipe not in WITHOUT_SEED:
            place = where("set", "seed") if "seed" in step.set else stage.where("seed")
            # added, so that steps that differ by their seeds alone still do
            config["seed"] = self.seed + _seed(place, config.get("seed", 0))
        self.configs[step.name] = config

    def inputs(self, name: str) -> list[str]:
        """Names of the steps a step refers to."""
        return sorted(set(references(self.configs[name])))

    def identities(self) -> dict[str, str]:
        """Step name -> hash over its recipe, configuration, the steps and local files it names, and the version."""
        digests: dict[str, str] = {}
        for step in self.steps:
            config = {k: v for k, v in self.configs[step.name].items() if k != "output_dir"}
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


def read_yaml(path: Path) -> YamlFile:
    """A mapping from a YAML file. Raises PlanError where the file is missing, malformed or something else."""
    try:
        return yaml_files.read_yaml(path)
    except RecipeError as error:
        raise PlanError(str(error)) from error


def _precision(launch: str | None) -> str:
    return "no" if launch is None else str(read_yaml(Path(launch)).content.get("mixed_precision") or "no")


def _where(file: YamlFile, number: int, name: str | None, *keys: Any) -> str:
    """How an error names a field of a step."""
    place = file.where("steps", number, *keys).partition(", field ")[0]
    step = f"step {number + 1}" if name is None else f"step {name!r}"
    return f"{place}, {step}" + (f", field {field_name(keys)}" if keys else "")


def _step(file: YamlFile, number: int, row: Any, launch: str | None) -> Step:
    where = partial(_where, file, number, None)
    if not isinstance(row, dict):
        raise PlanError(f"{where()}: found {shown(row)}, expected a mapping with name and recipe")
    if unknown := sorted(set(map(str, row)) - set(Step.__dataclass_fields__)):
        raise PlanError(f"{where(unknown[0])}: unknown, expected {', '.join(Step.__dataclass_fields__)}")
    for key in ("name", "recipe"):
        if not isinstance(row.get(key), str) or not NAME.fullmatch(row[key]):
            expected = f"at most {LONGEST} letters, digits, - and _"
            raise PlanError(f"{where(key)}: found {shown(row.get(key))}, expected {expected}")
    for key in ("config", "launch"):
        if row.get(key) is not None:
            _check_text(where(key), row[key])
    options = row.get("set", {})
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise PlanError(f"{where('set')}: found {shown(options)}, expected a mapping of options")
    default = {"launch": launch} if row["recipe"] in LAUNCHED else {}
    return Step(**default | row)


def _seed(where: str, value: Any) -> int:
    if type(value) is not int or not BOUNDS["seed"].fits(value):
        raise PlanError(f"{where}: found {shown(value)}, expected a whole number {BOUNDS['seed']}")
    return value


def _check_text(where: str, value: Any) -> None:
    """Raises PlanError for anything but a text that a file's name can be."""
    if not isinstance(value, str) or not value.strip() or len(value.encode()) > 255:
        raise PlanError(f"{where}: found {shown(value)}, expected text of at most 255 bytes")


def _texts(value: Any, keys: tuple = ()) -> Iterator[tuple[tuple, str]]:
    """All texts in a configuration, and where each stands."""
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != COLUMNS:
                yield from _texts(item, (*keys, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, (*keys, number))


def _strings(value: Any) -> Iterator[str]:
    return (text for _, text in _texts(value))


def references(config: dict) -> Iterator[str]:
    """Step names that a configuration refers to."""
    for text in _strings(config):
        yield from REFERENCE.findall(text)


def resolve(value: Any, directories: dict[str, str]) -> Any:
    """A configuration with every `{name}` replaced by that step's directory."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: directories[match[1]], value)
    if isinstance(value, dict):
        return {key: item if key == COLUMNS else resolve(item, directories) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, directories) for item in value]
    return value


def _inputs(config: dict) -> Iterator[tuple[str, Path]]:
    named = {text for keys, text in _texts(config) if any(key in PATHS or key == "path" for key in keys)}
    for text in sorted(set(_strings(config))):
        # a text that names no file: one too long for a name, or a $ that is no variable; the recipe says so of a path
        with suppress(OSError, SourceError):
            path = Path(expand(text))
            # a word such as "auto" may be the name of a folder by chance, where its option names no path
            if path.is_file() or (("/" in text or text in named) and path.is_dir()):
                yield text, path


def _file_digest(path: Path) -> str:
    if path.is_dir():
        rows = [(str(p.relative_to(path)), _file_digest(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return file_digest(path)
