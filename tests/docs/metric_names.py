"""Names of metrics: those that docs/metrics.md explains, and those in the files of a run."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from .reading import ROOT, rows

PAGE = ROOT / "docs" / "metrics.md"


@cache
def explained(first: str) -> re.Pattern:
    """What matches every name in the first column of the tables with this heading."""
    names = [name for row in rows(PAGE, first) for name in row[0].split(", ")]
    parts = [re.sub(r"<\w+>", "[^./]+(?:/[^./]+)?", re.escape(name).replace(r"\*", ".+")) for name in names]
    return re.compile("|".join(f"(?:{part})" for part in parts))


def unexplained(names: Iterable[str], first: str = "metric") -> list[str]:
    return sorted(name for name in set(names) if not explained(first).fullmatch(name))


def assert_explained(folder: Path) -> None:
    """Everything in a run's `log.jsonl` and `metrics.json` is on the page."""
    log, metrics = folder / "log.jsonl", folder / "metrics.json"
    if log.is_file():
        found = unexplained(name for line in log.read_text().splitlines() for name in json.loads(line))
        assert not found, f"{log}: {found}"
    found = unexplained(keys_of(json.loads(metrics.read_text())), "key")
    assert not found, f"{metrics}: {found}"


def keys_of(content: Any, key: str = "") -> Iterator[str]:
    """Keys of what a JSON file has, joined by dots; places in lists are left out, as is what is empty."""
    if isinstance(content, dict):
        for name, below in content.items():
            yield from keys_of(below, f"{key}.{name}".removeprefix("."))
    elif isinstance(content, list) and any(isinstance(below, dict) for below in content):
        for below in content:
            yield from keys_of(below, key)
    elif content not in ([], {}):
        yield key
