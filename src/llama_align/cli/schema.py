"""`llama-align schema`."""

import argparse
import json
from pathlib import Path

from ..recipe.outline import outline
from ..recipe.schema import schema_of
from ..runtime.files import write_json
from ..runtime.shipped import scripts


def add_options(one: argparse.ArgumentParser) -> None:
    one.description = (
        "JSON Schema of a recipe's YAML, from the same dataclasses and bounds as the recipe reads it with. An editor\n"
        "then completes keys, shows their help and marks what is wrong; docs/command.md says how."
    )
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help="print this one's")
    one.add_argument("--to", metavar="DIR", help="write all of them, as DIR/RECIPE.json")


def main(options: argparse.Namespace) -> None:
    """Prints one schema, or writes all."""
    known = {name: path for name, path in scripts().items() if name != "rounds"}  # whose options are no YAML's
    if (options.recipe is None) == (options.to is None):
        raise ValueError("RECIPE: expected either a recipe to print, or --to DIR for all")
    if options.recipe is not None and options.recipe not in known:
        raise ValueError(f"RECIPE: found {options.recipe!r}, expected one of {', '.join(known)}")
    if options.recipe:
        print(json.dumps(_schema(options.recipe, known[options.recipe]), indent=1))
        return
    for name, path in known.items():
        write_json(Path(options.to) / f"{name}.json", _schema(name, path))
    print(f"wrote {len(known)} schemas into {options.to}")


def _schema(name: str, script: Path) -> dict:
    return schema_of(outline(script).types, f"llama_align: {name}")
