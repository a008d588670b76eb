"""`llama-align ls`."""

import argparse
import ast
from pathlib import Path

from ..runtime.shipped import CONFIGS, scripts, shipped


def add_options(one: argparse.ArgumentParser) -> None:
    one.description = "What comes with the package, by the names that cp, run, validate and --launch take."
    one.add_argument("name", nargs="?", metavar="NAME", help="the files of one folder, such as herd-nano")


def main(options: argparse.Namespace) -> None:
    """Prints names, with a line on each."""
    if options.name:
        folder = shipped("recipes") / options.name
        if not folder.is_dir():
            known = ", ".join(path.name for path in folders())
            raise ValueError(f"NAME: found {options.name!r}, expected one of {known}")
        _table("", [(path.name, first_comment(path)) for path in sorted(folder.iterdir())])
        return
    _table("recipes", [(name, _first_line(path)) for name, path in scripts().items()])
    _table("folders of YAMLs", [(path.name, _of_folder(path)) for path in folders()])
    _table("accelerate configurations", [(path.stem, first_comment(path)) for path in _files(CONFIGS, "*.yaml")])
    _table("data cards", [(path.stem, "") for path in _files("data_cards", "*.md")])


def folders() -> list[Path]:
    """The folders of YAMLs."""
    return [path for path in sorted(shipped("recipes").iterdir()) if any(path.glob("*.yaml"))]


def _files(kind: str, pattern: str) -> list[Path]:
    return sorted(shipped(kind).glob(pattern))


def _first_line(script: Path) -> str:
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def first_comment(path: Path) -> str:
    """What a file's first line says of it, if that is a comment or a heading."""
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.lstrip("# ") if line.startswith("#") else ""


def _of_folder(path: Path) -> str:
    plans = sorted(each.name for each in path.glob("*.yaml") if "\nsteps:" in each.read_text(encoding="utf-8"))
    return f"{len(list(path.glob('*.yaml')))} YAMLs" + (f"; plans: {', '.join(plans)}" if plans else "")


def _table(title: str, rows: list[tuple[str, str]]) -> None:
    if title:
        print(f"\n{title}:")
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"  {name:{width}}  {text}".rstrip())
