"""A chain of steps as a YAML names it, and the identity of each: the hash of its configuration and its inputs."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..data.opening import expand

REFERENCE = re.compile(r"(?<!\$)\{([A-Za-z0-9_-]+)\}")  # ${NAME} is the environment's
LAUNCHED = (
    "pretrain",
    "sft",
    "reward",
    "ppo",
    "dpo",
    "rejection_sampling",
)  # the recipes that share their work among processes
WITHOUT_SEED = ("average",)  # no random number is drawn there
COLUMNS = "columns"  # templates over a data source's columns are written in braces, too
NAME = re.compile(r"[A-Za-z0-9_-]+")


class PlanError(ValueError):
    """A plan that cannot be run; the message names file, step and field."""


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
    def load(cls, path: str | Path, recipes: str | Path, seed: int | None = None) -> "Plan":
        """Reads a plan; `seed` stands for the plan's own. A plan's seed is added to that of every step.

        Raises:
            PlanError: an unknown key, recipe or reference, a seed that is no integer of at least 0, a name used twice,
                or a step before what it refers to.
        """
        path = Path(path)
        content = read_yaml(path)
        unknown = sorted(set(content) - {"name", "seed", "steps", "launch"})
        if unknown:
            raise PlanError(f"{path}, field {unknown[0]!r}: unknown, expected only name, seed, launch, steps")
        rows = content.get("steps")
        if not isinstance(rows, list) or not rows:
            raise PlanError(f"{path}, field 'steps': found {type(rows).__name__}, expected a list of steps")
        steps = [_step(path, number, row, content.get("launch")) for number, row in enumerate(rows, start=1)]
        own = _seed(f"{path}, field 'seed'", content.get("seed", 0) if seed is None else seed)
        plan = cls(path, str(content.get("name", path.stem)), own, steps, {})
        for step in steps:
            plan._add(step, Path(recipes))
        return plan

    def _add(self, step: Step, recipes: Path) -> None:
        where = f"{self.path}, step {step.name!r}"
        if step.name in self.configs:
            raise PlanError(f"{where}: found the name twice, expected names that differ")
        if not (recipes / f"{step.recipe}.py").is_file():
            known = ", ".join(sorted(p.stem for p in recipes.glob("*.py")))
            raise PlanError(f"{where}, field 'recipe': found {step.recipe!r}, expected one of {known}")
        config = read_yaml(self.path.parent / step.config) if step.config else {}
        config = config | step.set
        if step.recipe not in WITHOUT_SEED:
            # added, so that steps that differ by their seeds alone still do
            config["seed"] = self.seed + _seed(f"{where}, field 'seed'", config.get("seed", 0))
        for reference in references(config):
            if reference not in self.configs:
                raise PlanError(f"{where}: found {{{reference}}}, expected the name of an earlier step")
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
                "config": config,
                "steps": {name: digests[name] for name in self.inputs(step.name)},
                "files": {text: _file_digest(path) for text, path in _inputs(config)},
            }
            digests[step.name] = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
        return digests


def read_yaml(path: Path) -> dict:
    """A mapping from a YAML file. Raises PlanError where the file is missing, malformed or something else."""
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise PlanError(f"{path}: found no such file, expected a YAML file") from None
    except yaml.YAMLError as error:
        raise PlanError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise PlanError(f"{path}: found {type(content).__name__}, expected a mapping")
    return content


def _step(path: Path, number: int, row: Any, launch: str | None) -> Step:
    where = f"{path}, step {number}"
    if not isinstance(row, dict):
        raise PlanError(f"{where}: found {type(row).__name__}, expected a mapping with name and recipe")
    unknown = sorted(set(row) - set(Step.__dataclass_fields__))
    if unknown:
        raise PlanError(f"{where}, field {unknown[0]!r}: unknown, expected {', '.join(Step.__dataclass_fields__)}")
    for key in ("name", "recipe"):
        if not isinstance(row.get(key), str) or not NAME.fullmatch(row[key]):
            raise PlanError(f"{where}, field {key!r}: found {row.get(key)!r}, expected letters, digits, - and _")
    default = {"launch": launch} if row["recipe"] in LAUNCHED else {}
    return Step(**default | row)


def _seed(where: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise PlanError(f"{where}: found {value!r}, expected an integer of at least 0")
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != COLUMNS:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


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
    for text in sorted(set(_strings(config))):
        path = Path(expand(text))
        # a word such as "auto" may be the name of a folder by chance; data and checkpoints are named with a slash
        if path.is_file() or ("/" in text and path.is_dir()):
            yield text, path


def _file_digest(path: Path) -> str:
    if path.is_dir():
        rows = [(str(p.relative_to(path)), _file_digest(p)) for p in sorted(path.rglob("*")) if p.is_file()]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
