"""Imports put off until somebody needs them, so that what needs no torch does not wait for it."""

import ast
import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any


def on_demand(package: str, file: str) -> Callable[[str], Any]:
    """`__getattr__` of a package whose imports stand below `if TYPE_CHECKING`: each is done when it is asked for.

    So are its modules, which imports leave as attributes of a package.
    """
    folder = Path(file).parent
    places = {
        alias.asname or alias.name: ("." * node.level + node.module, alias.name)
        for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in places:
            if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file():
                return importlib.import_module(f".{name}", package)
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = places[name]
        value = getattr(importlib.import_module(module, package), attribute)
        setattr(sys.modules[package], name, value)
        return value

    return get


def when_imported(name: str, call: Callable[[], None]) -> None:
    """Calls something once the module `name` has been imported, which may be now."""
    if name in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _After(name, call))


class _After:
    """Finds one module as Python does, and calls something behind its import.

    Nothing plainer does. transformers has no entry points that it would read; to import it here, so as to register at
    once, takes seconds; and who imports only transformers' Auto classes behind this package never asks it for anything.
    """

    def __init__(self, name: str, call: Callable[[], None]):
        self.name, self.call = name, call

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == self.name else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                sys.meta_path.remove(self)  # not where it is found, since it may be found and not imported
                self.call()

            spec.loader.exec_module = exec_module
        return spec
