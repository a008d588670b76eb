"""References to other steps in the texts of a configuration: which there are, and what stands in their place."""

import re
from collections.abc import Callable, Iterator
from typing import Any

# ${NAME} is the environment's
REFERENCE = re.compile(r"(?<!\$)\{([A-Za-z0-9_-]+)(?:@([A-Za-z0-9_-]+))?\}")
COLUMNS = "columns"  # templates over a data source's columns are written in braces, too


def texts(value: Any, keys: tuple = ()) -> Iterator[tuple[tuple, str]]:
    """All texts in a configuration, and where each stands."""
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != COLUMNS:
                yield from texts(item, (*keys, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from texts(item, (*keys, number))


def strings(value: Any) -> Iterator[str]:
    """All texts in a configuration."""
    return (text for _, text in texts(value))


def found_in(text: str) -> list[tuple[str, str]]:
    """The references in a text as (name, what stands behind its @ or nothing)."""
    return REFERENCE.findall(text)


def references(config: dict) -> Iterator[str]:
    """Step names that a configuration refers to."""
    for text in strings(config):
        for name, _ in found_in(text):
            yield name


def replaced(value: Any, put: Callable[[re.Match], str]) -> Any:
    """A configuration with something else in the place of every reference."""
    if isinstance(value, str):
        return REFERENCE.sub(put, value)
    if isinstance(value, dict):
        return {key: item if key == COLUMNS else replaced(item, put) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, put) for item in value]
    return value


def resolve(value: Any, directories: dict[str, str]) -> Any:
    """A configuration with every `{name}` replaced by that step's directory."""
    return replaced(value, lambda match: directories[match[1]])
