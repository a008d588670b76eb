"""Which tasks and groups there are (tasks.yaml), and what a measurement of them is. Does without the harness."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@dataclass
class Task:
    """One line of a table: the harness's tasks that it pools, and its metrics, the one that is shown first."""

    name: str
    parts: list[Any]
    metrics: tuple[str, ...]

    @property
    def shots(self) -> int:
        """Examples before each item."""
        return self.parts[0].config.num_fewshot or 0

    def docs(self, limit: int | None) -> list[dict]:
        """The items, part by part."""
        return [doc for part in self.parts for doc in list(part.eval_docs)[:limit]]


@dataclass(frozen=True)
class Settings:
    """What tasks depend on. programs: per item, pass@k's k. longest: bound on written answers. run: whether
    written programs are run. hub: groups with the harness's own tasks, too. include: folder of more YAMLs."""

    programs: int = 1
    longest: int | None = None
    run: bool = False
    hub: bool = False
    include: str | None = None


@cache
def catalogue() -> dict[str, dict]:
    """`groups` and `tasks` of tasks.yaml."""
    return yaml.safe_load(Path(__file__).with_name("tasks.yaml").read_text("utf-8"))


def members(group: str, hub: bool) -> list[str]:
    """The tasks of a group of ours."""
    found = catalogue()["groups"][group]
    return found["tasks"] + (found.get("hub", []) if hub else [])
