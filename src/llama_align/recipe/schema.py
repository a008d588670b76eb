"""JSON Schema of a recipe's options, from its dataclasses and the bounds of numbers, for editors."""

import dataclasses
import enum
import types
import typing
from collections.abc import Iterable
from typing import Any

from .bounds import ALSO, BOUNDS, Bound, hints_of

DRAFT = "http://json-schema.org/draft-07/schema#"
NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", types.NoneType: "null"}


def schema_of(dataclass_types: Iterable[type], title: str) -> dict[str, Any]:
    """The schema of a recipe's YAML: every option with its type, bounds, default and help, and no others."""
    kinds = tuple(dataclass_types)
    hints = hints_of(kinds)
    known = {field.name: field for kind in kinds for field in dataclasses.fields(kind)}
    properties = {name: _option(name, hint, known[name]) for name, hint in hints.items()}
    return {"$schema": DRAFT, "title": title, "type": "object"} | {
        "properties": properties,
        "additionalProperties": False,
    }


def _option(name: str, hint: Any, field: dataclasses.Field) -> dict[str, Any]:
    if typing.get_origin(hint) is list and typing.get_args(hint)[0] in (str, int, float):
        hint = hint | typing.get_args(hint)[0]  # one alone stands for a list of one
    found = _type(hint | ALSO[name] if name in ALSO else hint, BOUNDS.get(name))
    if text := field.metadata.get("help"):
        found["description"] = text
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if default is not dataclasses.MISSING:
        found["default"] = default.value if isinstance(default, enum.Enum) else default
    return found


def _type(hint: Any, bound: Bound | None) -> dict[str, Any]:
    """The schema of a type; a bound holds of every number within."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_type(arg, bound) for arg in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if (origin or hint) in (list, tuple):
        return {"type": "array"} | ({"items": _type(args[0], bound)} if args else {})
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(args[1], bound)}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [each.value for each in hint]}
    if dataclasses.is_dataclass(hint):
        return {"type": "object"}
    if hint in (int, float) and bound is not None:
        return _bounded(NAMES[hint], bound)
    return {"type": NAMES[hint]} if hint in NAMES else {}


def _bounded(name: str, bound: Bound) -> dict[str, Any]:
    low = "exclusiveMinimum" if bound.above else "minimum"
    high = "exclusiveMaximum" if bound.below else "maximum"
    inside = {"type": name, low: bound.low, high: bound.high}
    return {"anyOf": [inside, {"enum": list(bound.also)}]} if bound.also else inside
