"""`llama-align validate`."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ..recipe.bounds import hints_of
from ..recipe.errors import RecipeError
from ..recipe.outline import dataclass_of, outline
from ..recipe.reading import problem_of, problems
from ..recipe.yaml_files import YamlFile, read_yaml
from ..rounds.checking import problems_of_plan, problems_of_sources, recipe_of
from ..runtime.shipped import scripts

PRECISIONS = ("no", "fp16", "bf16", "fp8")
EXAMPLES = """\
examples:
  a recipe's YAML, a plan with the YAMLs it names, an accelerate configuration
    llama-align validate mine/dpo.yaml
    llama-align validate mine/rounds.yaml
    llama-align validate zero3.yaml
"""


def add_options(one: argparse.ArgumentParser) -> None:
    one.description = (
        "Names every wrong key and value of YAML files, each with its line: of a recipe, of a plan with all its steps\n"
        "and their YAMLs, or of accelerate. Nothing is imported that trains: options that contradict each other, and\n"
        "data and checkpoints, are looked at when the recipe is run. Ends with code 2 where something is wrong."
    )
    one.epilog = EXAMPLES
    one.add_argument("files", nargs="+", metavar="FILE", help="YAML")
    one.add_argument("--recipe", metavar="NAME", help="whose YAML it is (default: what the file or a plan beside says)")


def main(options: argparse.Namespace) -> int:
    """Prints what is wrong; returns 2 where anything is."""
    code = 0
    for name in options.files:
        try:
            kind, found = problems_of(Path(name), options.recipe)
        except RecipeError as error:  # no YAML, or nobody's
            kind, found = "", [str(error)]
        for problem in found:
            print(problem)
        if not found:
            print(f"{name}: {kind}, nothing wrong; data and checkpoints are looked at when it is run")
        code = 2 if found else code
    return code


def problems_of(path: Path, recipe: str | None = None) -> tuple[str, list[str]]:
    """What a YAML file is, and what is wrong in it.

    Raises:
        RecipeError: it is no YAML as recipes have it, or it cannot be told whose it is.
    """
    file = read_yaml(path)
    if recipe is None and "steps" in file.content:
        return "a plan", problems_of_plan(file, scripts())
    if recipe is None and {"compute_environment", "distributed_type"} & file.content.keys():
        return "an accelerate configuration", list(_of_accelerate(file))
    recipe = recipe or recipe_of(path, scripts())
    if recipe is None:
        expected = "expected --recipe NAME, or a file called NAME.yaml or NAME_more.yaml"
        raise RecipeError(f"{path}: found neither a plan beside it nor a recipe's name in its own, {expected}")
    if recipe not in scripts():
        raise RecipeError(f"recipe: found {recipe!r}, expected one of {', '.join(scripts())}")
    hints = hints_of(outline(scripts()[recipe]).types)
    return f"options of {recipe}", [*problems(file, hints), *problems_of_sources(file.content, file.where)]


def _of_accelerate(file: YamlFile) -> Iterator[str]:
    """By the fields of accelerate's own dataclass; what is in the tables of its engines is left to them."""
    hints = hints_of([dataclass_of("accelerate.commands.config.config_args", "ClusterConfig")])
    hints["downcast_bf16"] = str  # read by the launcher, no field of it
    kinds = [each.value for each in dataclass_of("accelerate.utils.dataclasses", "DistributedType")]
    choices = {"distributed_type": kinds, "mixed_precision": PRECISIONS}
    for key, value in file.content.items():
        if key not in choices:
            yield from filter(None, [problem_of(key, value, hints, file.where)])
        elif value not in choices[key]:
            yield f"{file.where(key)}: found {value!r}, expected {', '.join(choices[key][:-1])} or {choices[key][-1]}"
