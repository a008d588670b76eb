"""Values of the YAMLs with the comments beside them, by key: `stages.0.batch`, `datasets.Books.weight`."""

import importlib
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from llama_align.recipe.yaml_files import YamlFile, read_yaml

from .reading import ROOT

RECIPES = ROOT / "recipes"
PAPERS = sorted(path for name in ("llama-*", "code-llama-*") for path in RECIPES.glob(f"{name}/*.yaml"))
PLACE = re.compile(r"(?:sections?|tables?|appendix|figure) [A-Z\d.]*\d|model card|released configuration")


@dataclass(frozen=True)
class Value:
    line: int
    value: Any
    comment: str  # at the end of the line, or else on the line above

    @property
    def is_sourced(self) -> bool:
        """Whether the comment says where in a paper the value stands; "ours" says that it does not."""
        return bool(PLACE.search(self.comment)) and not self.comment.startswith("ours")


@cache
def values(path: Path) -> dict[str, Value]:
    """All values of a YAML by key; entries of a list go by their names, else by their places."""
    lines = ["", *path.read_text("utf-8").splitlines()]
    above = ["", *(line.strip().removeprefix("# ") if line.strip().startswith("# ") else "" for line in lines)]
    comments = [line.partition("  # ")[2] or before for line, before in zip(lines, above, strict=False)]
    file = read_yaml(path)
    return {key: Value(line, found, comments[line]) for key, found, line in _walk(file, file.content, (), (), 0)}


def _walk(file: YamlFile, found: Any, at: tuple, names: tuple, line: int) -> Iterator[tuple[str, Any, int]]:
    if at:
        yield ".".join(map(str, names)), found, line
    if isinstance(found, dict | list):
        for key, below in found.items() if isinstance(found, dict) else enumerate(found):
            name = below.get("name", key) if isinstance(found, list) and isinstance(below, dict) else key
            yield from _walk(file, below, (*at, key), (*names, name), file.lines.get((*at, key), line))


def in_code(name: str) -> Any:
    """What `room.module:NAME.key` is: of a dictionary an entry, of a dataclass a default; tuples as lists."""
    module, _, path = name.partition(":")
    found = importlib.import_module(f"llama_align.{module}")
    for key in path.split("."):
        if fields := getattr(found, "__dataclass_fields__", None):
            found = fields[key].default if fields[key].default is not MISSING else fields[key].default_factory()
        else:
            found = found[key] if isinstance(found, dict) else getattr(found, key)
    return list(found) if isinstance(found, tuple) else found
