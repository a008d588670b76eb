"""Which checkpoint answers for a folder: the folder itself, or of a run of rounds the last model that it made."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ..recipe import RecipeError
from ..runtime.overview import OVERVIEW, read_overview


@dataclass(frozen=True)
class Found:
    """A checkpoint, what to call it, and the reward models its run measured it with, by name."""

    path: str
    name: str
    reward_models: dict[str, str] = field(default_factory=dict)


def find(place: str) -> Found:
    """The checkpoint of a folder, of a run of rounds, or of a name on the Hub as it is.

    Raises:
        RecipeError: a run without a finished language model.
    """
    folder = Path(place)
    if not (folder / OVERVIEW).is_file():
        return Found(place, folder.name or place)
    steps = list(_finished(folder))
    models = [step for step in steps if _is_language_model(folder / step["directory"])]
    if not models:
        raise RecipeError(f"{place}: found no finished step that made a language model, expected one")
    rewards = next(filter(None, (_rewards(folder, step) for step in reversed(steps))), {})
    return Found(str(folder / models[-1]["directory"]), models[-1]["name"], rewards)


def _finished(folder: Path) -> Iterator[dict]:
    try:
        steps = read_overview(folder)["steps"]
    except ValueError as error:
        raise RecipeError(str(error)) from error
    yield from (step for step in steps if step["status"] == "finished")


def _is_language_model(folder: Path) -> bool:
    for name, key in (("config.json", "architectures"), ("adapter_config.json", "task_type")):
        try:
            found = json.loads((folder / name).read_text("utf-8"))[key]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return str(found).rstrip("']").endswith(("ForCausalLM", "CAUSAL_LM"))
    return False


def _rewards(run: Path, step: dict) -> dict[str, str]:
    """The reward models in a step's options, wherever its run lies now."""
    try:
        named = yaml.safe_load((run / step["directory"] / "config.yaml").read_text("utf-8"))["reward_models"]
        paths = {str(name): [run / Path(path).name, Path(path)] for name, path in named.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}
    found = {name: next((str(path) for path in places if path.is_dir()), None) for name, places in paths.items()}
    return found if all(found.values()) else {}
