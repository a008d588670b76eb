"""`llama-align run`."""

import argparse
import os
import sys
from pathlib import Path

from ..recipe.reading import check_options
from ..runtime.shipped import CONFIGS, launch_file, scripts, shipped

EXAMPLES = """\
examples:
  in one process, and on eight GPUs with ZeRO-3
    llama-align run dpo --config mine/dpo.yaml --learning_rate 2e-6
    llama-align run dpo --config mine/dpo.yaml --launch zero3

  a recipe's options
    llama-align run dpo --help
"""


def add_options(one: argparse.ArgumentParser) -> None:
    one.description = (
        "Runs a recipe's script with its own options, in a process of this Python. With --launch it is started by\n"
        "accelerate with that configuration: one that `llama-align ls` lists, or a file."
    )
    one.epilog = EXAMPLES
    one.usage = "llama-align run [--launch NAME] RECIPE [--config FILE] [--OPTION VALUE ...]"
    one.add_argument("--launch", metavar="NAME", help="accelerate configuration (default: one process)")
    one.add_argument("rest", nargs=argparse.REMAINDER, metavar="RECIPE ...", help="a recipe or a script, its options")


def main(options: argparse.Namespace) -> None:
    """Becomes the recipe's process; does not return."""
    command = command_of(options.rest, options.launch)
    sys.stdout.flush()
    os.execv(command[0], command)


def command_of(rest: list[str], launch: str | None) -> list[str]:
    """The process that runs a recipe, its options looked at before.

    Raises:
        ValueError: no such recipe or launch, or an option that the recipe refuses.
    """
    if not rest:
        raise ValueError(f"RECIPE: found none, expected one of {', '.join(scripts())}")
    name, *args = rest
    script = Path(name) if name.endswith(".py") else scripts().get(name)
    if script is None or not script.is_file():
        raise ValueError(f"RECIPE: found {name!r}, expected a script or one of {', '.join(scripts())}")
    if name != "rounds":  # which has an option of that name
        launch, args = _launch(launch, args)
    check_options(script, args)
    if launch is None:
        return [sys.executable, str(script), *args]
    file = launch_file(launch)
    if file is None:
        known = ", ".join(path.stem for path in sorted(shipped(CONFIGS).glob("*.yaml")))
        raise ValueError(f"launch: found {launch!r}, expected a file or one of {known}")
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file), str(script), *args]


def _launch(launch: str | None, args: list[str]) -> tuple[str | None, list[str]]:
    """`--launch NAME` from among a recipe's options, and the others."""
    one = argparse.ArgumentParser(prog="llama-align run", add_help=False, allow_abbrev=False)
    one.add_argument("--launch", default=launch)
    found, others = one.parse_known_args(args)
    return found.launch, others
