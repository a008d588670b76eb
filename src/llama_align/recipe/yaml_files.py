"""YAML as recipes and plans read it: bounded, no key twice, plain values alone, each with its line.

Knows nothing of options or steps.
"""

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .errors import RecipeError

CHARACTERS = 1_000_000
VALUES = 20_000  # aliases count as often as they are used
DEPTH = 40
PREFIX = "tag:yaml.org,2002:"
PLAIN = tuple(PREFIX + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|.*:.*)")  # 010 is 8 in YAML 1.1, 1:30 is 90
MERGE = PREFIX + "merge"
# options have names; tables by a column's value, within them, may have numbers
KEYS = (MERGE, *(PREFIX + name for name in ("str", "int", "float", "bool")))

Keys = tuple[Hashable, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number, as YAML 1.2 and Python do."""


_Loader.add_implicit_resolver(PREFIX + "float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


@dataclass
class YamlFile:
    """The mapping in a file, and the line of every value in it."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=dict)

    def where(self, *keys: Hashable) -> str:
        """How an error names a value: file, line and field."""
        line = next((self.lines[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in self.lines), None)
        return ", ".join(
            [str(self.path)]
            + ([f"line {line}"] if line is not None else [])
            + ([f"field {field_name(keys)}"] if keys else [])
        )


def field_name(keys: Keys) -> str:
    """`'datasets[0].path'` of ("datasets", 0, "path")."""
    steps = [f"[{key}]" if i and isinstance(key, int) else f".{key}" for i, key in enumerate(keys)]
    return repr(shortened("".join(steps).removeprefix(".")))


def shortened(text: str, longest: int = 120) -> str:
    """What an error quotes of a long text."""
    return text if len(text) <= longest else f"{text[: longest - 40]}...{text[-30:]}"


def read_yaml(path: str | Path) -> YamlFile:
    """The mapping in a YAML file.

    Raises:
        RecipeError: no such file, no YAML, no mapping, a key twice, or a value that is not plain, finite and bounded.
    """
    path = Path(path)
    found = YamlFile(path)
    try:
        loader = _Loader(_text(path))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            kind = {"SequenceNode": "a list", "NoneType": "nothing"}.get(type(node).__name__, "text")
            raise RecipeError(f"{path}: found {kind}, expected a mapping")
        _Walk(found).visit(node, (), ())
        found.content = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise RecipeError(f"{path}{line}: found no valid YAML ({error.problem}), expected it") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{path}: found no valid YAML ({' '.join(str(error).split())}), expected it") from error
    except RecursionError:
        raise RecipeError(f"{path}: found values nested too deeply, expected at most {DEPTH} levels") from None
    return found


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise RecipeError(f"{shortened(str(path))}: found no such file, expected a YAML file")
        if path.stat().st_size > CHARACTERS:
            raise RecipeError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {CHARACTERS:,}")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{shortened(str(path))}: found no readable text ({error}), expected a YAML file") from error


class _Walk:
    """Visits every value as often as it is used, before any is made: what aliases multiply is counted here."""

    def __init__(self, file: YamlFile):
        self.file = file
        self.count = 0

    def visit(self, node: yaml.Node, keys: Keys, above: tuple[yaml.Node, ...]) -> None:
        self.file.lines.setdefault(keys, node.start_mark.line + 1)
        self.count += 1
        if self.count > VALUES:
            self._refuse(node, keys, f"more than {VALUES:,} values with all aliases", "fewer")
        if any(node is other for other in above):
            self._refuse(node, keys, "a value that contains itself", "one that ends")
        if len(above) > DEPTH:
            self._refuse(node, keys, "values nested too deeply", f"at most {DEPTH} levels")
        if node.tag not in PLAIN:
            self._not_plain(node, keys)
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, keys, (*above, node))
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                self.visit(item, (*keys, number), (*above, node))
        else:
            self._scalar(node, keys)

    def _mapping(self, node: yaml.MappingNode, keys: Keys, above: tuple[yaml.Node, ...]) -> None:
        seen: dict[str, int] = {}
        kinds: set[bool] = set()
        merged = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (KEYS if keys else KEYS[:2]):
                found = f"the key {key.value}" if isinstance(key, yaml.ScalarNode) else "a list or mapping as key"
                self._refuse(key, keys, found, "text")
            if key.value in seen:
                self._refuse(key, (*keys, key.value), f"it a second time, after line {seen[key.value]}", "it once")
            seen[key.value] = line
            if key.tag != MERGE:
                kinds.add(key.tag == PREFIX + "str")
            if len(kinds) > 1:  # which no order of keys could compare
                self._refuse(key, keys, f"the key {key.value} beside keys of another type", "all of one")
            if key.tag == MERGE:
                merged.append(value)
                continue
            self._scalar(key, keys)
            self.file.lines.setdefault((*keys, key.value), line)
            self.visit(value, (*keys, key.value), above)
        for value in merged:  # afterwards, as the lines of the mapping's own values win
            for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                self.visit(each, keys, above)

    def _scalar(self, node: yaml.ScalarNode, keys: Keys) -> None:
        if node.tag == PREFIX + "str":
            if not (node.value.isascii() or _is_unicode(node.value)) or "\0" in node.value:
                self._refuse(node, keys, "a character that no file name or text can have", "Unicode text")
            return
        if len(node.value) > 100:
            self._refuse(node, keys, f"a number of {len(node.value)} characters", "at most 100")
        if node.tag in (PREFIX + "int", PREFIX + "float"):
            number = yaml.SafeLoader("").construct_object(node, deep=True)
            if not math.isfinite(number):
                self._refuse(node, keys, node.value, "a finite number")
            if OTHER_BASE.fullmatch(node.value):
                self._refuse(node, keys, f"{node.value}, which YAML reads as {number}", "a decimal number, or quotes")
            if isinstance(number, int) and abs(number) >= 2**63:
                self._refuse(node, keys, node.value, "a whole number of at most 64 bits")

    def _not_plain(self, node: yaml.Node, keys: Keys) -> None:
        if node.tag == PREFIX + "timestamp":
            self._refuse(node, keys, f"the date {node.value}", "text (in quotes), numbers, lists or mappings")
        self._refuse(node, keys, f"the tag {node.tag.replace(PREFIX, '!!')}", "plain text, numbers, lists or mappings")

    def _refuse(self, node: yaml.Node, keys: Keys, found: str, expected: str) -> None:
        self.file.lines[keys] = node.start_mark.line + 1
        raise RecipeError(f"{self.file.where(*keys)}: found {shortened(found)}, expected {expected}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
