"""Which code a step's result comes from: in a checkout that is worked on its own bytes, installed the version.

Of a recipe that is its script and every module of the package that it can come to import, at a module's beginning or
within a function; the manager is none of them. What lies in a room beside its modules, such as templates, counts with
the room.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .. import __version__
from ..runtime.identity import lines_digest
from ..runtime.manifest import file_digest

PACKAGE = Path(__file__).resolve().parents[1]


def code_of(script: Path) -> str:
    """Digest of the code that a recipe's script runs, or the version of the package with that of the script."""
    own = file_digest(script)
    if not (PACKAGE.parents[1] / "pyproject.toml").is_file():
        return f"{__version__} {own[:16]}"
    modules: set[Path] = set()
    left = _imported(script)
    while left:
        modules |= left
        left = {other for file in left for other in _of_package(file)[1]} - modules
    rooms = {file.relative_to(PACKAGE).parts[0] for file in modules} - {"__init__.py"}
    rows = [f"{file.relative_to(PACKAGE)} {_of_package(file)[0]}" for file in sorted(modules)]
    return lines_digest([own, *rows, *(row for room in sorted(rooms) for row in _beside(PACKAGE / room))])


def _of_package(file: Path) -> tuple[str, frozenset[Path]]:
    found = file.stat()
    return _read(file, found.st_size, found.st_mtime_ns)


# steps are processes of their own, which import what lies there by then, whatever this one has imported
@cache
def _read(file: Path, *_stamp: int) -> tuple[str, frozenset[Path]]:
    return file_digest(file), _imported(file)


def _beside(room: Path) -> list[str]:
    # what Python compiles, perhaps this moment, and what editors keep is no part of it
    names = (file.relative_to(PACKAGE) for file in sorted(room.rglob("*")) if file.suffix != ".py" and file.is_file())
    kept = (name for name in names if not any(part.startswith((".", "__pycache__")) for part in name.parts))
    return [f"{name} {file_digest(PACKAGE / name)}" for name in kept]


def _imported(file: Path) -> frozenset[Path]:
    """Files of the package that one imports, with those of the packages above them."""
    package = [PACKAGE.name, *file.parent.relative_to(PACKAGE).parts] if file.is_relative_to(PACKAGE) else []
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except SyntaxError:  # its step says so
        return frozenset()
    if file == PACKAGE / "__init__.py":  # its names are for notebooks, and imported when one asks for them
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    return frozenset(found for node in ast.walk(tree) for name in _names(node, package) for found in _files(name))


def _names(node: ast.AST, package: list[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(name: str) -> Iterator[Path]:
    """The files that importing a name of the package runs; its last part may be a name within a module."""
    first, *parts = name.split(".")
    if first != PACKAGE.name:
        return
    place = PACKAGE
    yield place / "__init__.py"
    for part in parts:
        place = place / part
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                yield file
