"""`llama-align cp`."""

import argparse
import os
import shutil
from pathlib import Path

from .. import __version__
from ..runtime.shipped import CONFIGS, launch_file, scripts, shipped

EXAMPLES = """\
examples:
  a chain to change, run as it is by: llama-align rounds run mine/rounds.yaml
    llama-align cp herd-nano mine

  one stage's YAML, one recipe's script, one accelerate configuration
    llama-align cp herd-nano/dpo.yaml dpo.yaml
    llama-align cp dpo dpo.py
    llama-align cp zero3 zero3.yaml
"""


def add_options(one: argparse.ArgumentParser) -> None:
    one.description = (
        "Copies what `llama-align ls` lists: a folder of YAMLs, a file of one, a recipe's script, an accelerate\n"
        "configuration, a data card; or all of recipes, accelerate_configs or data_cards by these names."
    )
    one.epilog = EXAMPLES
    one.add_argument("name", metavar="NAME", help="what to copy")
    one.add_argument("to", metavar="TO", help="folder or file to write, which must not be there yet")


def main(options: argparse.Namespace) -> None:
    """Copies, and says in the first line of every YAML and script where it is from."""
    source, to = source_of(options.name), Path(options.to)
    if to.exists():
        raise ValueError(f"TO: found {to}, expected a name that is not there yet")
    part = to.with_name(f".{to.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, part)
    for path in [part, *part.rglob("*")]:
        if path.is_file() and (source if path == part else path).suffix in (".yaml", ".py"):
            _stamp(path, options.name if path == part else f"{options.name}/{path.relative_to(part)}")
    os.replace(part, to)
    print(f"wrote {to}")


def source_of(name: str) -> Path:
    """The file or folder that comes with the package under a name.

    Raises:
        ValueError: there is none.
    """
    recipes = shipped("recipes")
    inside = [path for path in (recipes / name, shipped("data_cards") / f"{name}.md") if _below(path)]
    places = [scripts().get(name), *inside, launch_file(Path(name).name) if "/" not in name else None]
    if name in ("recipes", CONFIGS, "data_cards"):
        places = [shipped(name)]
    if found := next((path for path in places if path is not None and path.exists()), None):
        return found
    raise ValueError(f"NAME: found {name!r}, expected one that `llama-align ls` lists")


def _below(path: Path) -> bool:
    """Whether a path leads out of none of the folders that come with the package."""
    return ".." not in path.parts and path.is_relative_to(shipped("").resolve()) and path.exists()


def _stamp(path: Path, name: str) -> None:
    path.write_text(f"# {name} of llama_align {__version__}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
