"""A recipe's options as its source says, without importing what they stand beside: torch and TRL take seconds.

The dataclasses that a script hands to `recipe.run` are found by name, through imports, in the sources of this package,
TRL and transformers. Their fields (names, types, defaults, help) are made into dataclasses of the same names, without
methods. tests/recipe/test_outline.py compares them with the true ones, field by field.
"""

import ast
import builtins
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


class Unreadable(Exception):
    """Sources that this does not understand; what is imported knows better."""


@dataclass(frozen=True)
class Outline:
    """A recipe's dataclasses, in order, the names they have in its script, and its docstring."""

    types: tuple[type, ...]
    names: tuple[str, ...]
    doc: str | None


def outline(script: str | Path) -> Outline:
    """The options of a recipe's script.

    Raises:
        Unreadable: a script that ends otherwise than with `recipe.run(main, ...)`, or sources of another kind.
    """
    source = _source(None, Path(script))
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("recipe.run", "run"):
            names = tuple(ast.unparse(arg) for arg in node.args[1:])
            return Outline(tuple(_dotted(source, name) for name in names), names, ast.get_docstring(source.tree))
    raise Unreadable(f"{script}: found no call of recipe.run")


def dataclass_of(module: str, name: str) -> type:
    """A dataclass of an installed package by the module it stands in, without importing it.

    Raises:
        Unreadable: no such class, or one of another kind.
    """
    return _found(_module(module), name)


@dataclass(frozen=True, eq=False)
class _Source:
    """A file and what stands at its top: classes, names with their values, imports."""

    module: str | None
    path: Path
    tree: ast.Module
    names: dict[str, ast.AST]

    @property
    def package(self) -> str:
        return self.module if self.path.name == "__init__.py" else self.module.rpartition(".")[0]

    def __getattr__(self, name: str) -> Any:
        """What a module has under a name, as where `logging.WARNING` is read."""
        return _found(self, name)


@cache
def _source(module: str | None, path: Path) -> _Source:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise Unreadable(f"{path}: {error}") from error
    names: dict[str, ast.AST] = {}
    _collect(tree.body, names)
    return _Source(module, path, tree, names)


def _collect(body: list[ast.stmt], names: dict[str, ast.AST]) -> None:
    for node in body:
        if isinstance(node, ast.If | ast.Try):  # what is asked for is installed: the first of two ways is gone
            _collect([*node.orelse, *node.body], names)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            names[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                bound = alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)
                names[bound] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    names[target.id] = node.value


@cache
def _module(name: str) -> _Source:
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)  # imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise Unreadable(f"{name}: found no package {top}")
    base = Path(spec.submodule_search_locations[0]).joinpath(*parts)
    return _source(name, base / "__init__.py" if base.is_dir() else base.with_suffix(".py"))


def _dotted(source: _Source, name: str) -> Any:
    first, *rest = name.split(".")
    found = _found(source, first)
    for attribute in rest:
        found = getattr(found, attribute)
    return found


@cache
def _found(source: _Source, name: str) -> Any:
    """What a name at a file's top stands for: a class made again, a constant, or a module."""
    node = source.names.get(name)
    if isinstance(node, ast.ClassDef):
        return _made(source, node)
    if isinstance(node, ast.FunctionDef):
        bare = ast.FunctionDef(node.name, node.args, node.body, [], None)
        return _executed(source, ast.copy_location(bare, node), {name})
    if isinstance(node, ast.ImportFrom):
        return _imported(source, node, name)
    if isinstance(node, ast.Import):
        (module,) = [alias.name for alias in node.names if name in (alias.asname, alias.name.partition(".")[0])]
        return _known(module)
    if node is not None:
        return _evaluated(source, ast.Expression(node))
    raise Unreadable(f"{source.path}: found nothing that {name} stands for")


def _imported(source: _Source, node: ast.ImportFrom, name: str) -> Any:
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
    parts = source.package.split(".")[: -(node.level - 1) or None] if node.level else []
    module = ".".join([*parts, *([node.module] if node.module else [])])
    if module.partition(".")[0] in sys.stdlib_module_names:
        return getattr(importlib.import_module(module), original)
    inside = _module(module)
    return _found(inside, original) if original in inside.names else _module(f"{module}.{original}")


def _known(module: str) -> Any:
    return importlib.import_module(module) if module.partition(".")[0] in sys.stdlib_module_names else _module(module)


def _made(source: _Source, node: ast.ClassDef) -> type:
    """A class with its bases, annotated fields and constants, and no methods."""
    fields = [_annotated(each) for each in _lines(node.body) if _is_kept(each)]
    decorators = [each for each in node.decorator_list if ast.unparse(each).startswith("dataclass")]
    bare = ast.ClassDef(node.name, node.bases, node.keywords, fields or [ast.Pass()], decorators)
    inside = {target.id for each in fields for target in _targets(each)}
    return _executed(source, ast.copy_location(bare, node), inside | {node.name})


def _executed(source: _Source, node: ast.ClassDef | ast.FunctionDef, inside: set[str]) -> Any:
    tree = ast.Module([node], [])
    space = _space(source, tree, inside)
    exec(compile(ast.fix_missing_locations(tree), str(source.path), "exec", dont_inherit=True), space)
    return space[node.name]


def _lines(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for each in body:
        yield from _lines(each.body) if isinstance(each, ast.If) else [each]


def _is_kept(node: ast.stmt) -> bool:
    """Whether a line of a class is a field or a constant, and no other name of a method."""
    return isinstance(node, ast.AnnAssign) or (
        isinstance(node, ast.Assign) and not isinstance(node.value, ast.Name | ast.Call | ast.Attribute)
    )


def _targets(node: ast.Assign | ast.AnnAssign) -> list[ast.Name]:
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
    return [target for target in targets if isinstance(target, ast.Name)]


def _annotated(node: ast.Assign | ast.AnnAssign) -> ast.stmt:
    """A field whose type is no text, which would be looked up where it is not known."""
    if not isinstance(node, ast.AnnAssign):
        return node
    hint = node.annotation
    while isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        hint = ast.parse(hint.value, mode="eval").body
    return ast.copy_location(ast.AnnAssign(node.target, hint, node.value, node.simple), node)


def _evaluated(source: _Source, tree: ast.Expression) -> Any:
    code = compile(ast.fix_missing_locations(tree), str(source.path), "eval", dont_inherit=True)
    return eval(code, _space(source, tree, set()))


def _space(source: _Source, tree: ast.AST, inside: set[str]) -> dict[str, Any]:
    """The names that a piece of source reads, with what they stand for."""
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    wanted = {name for name in read - bound - inside - arguments if name in source.names or not hasattr(builtins, name)}
    return {name: _found(source, name) for name in wanted} | {"__name__": source.module or "__main__"}
