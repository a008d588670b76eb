"""`llama-align rounds`."""

import argparse

DESCRIPTION = """\
Run a plan: a chain of steps, or a programme of rounds, from one YAML. A step that is finished is never run again; one
whose settings or inputs changed is, and so is all that depends on it. Interrupted or killed, the same command goes on.

  run      what is not finished, in order
  status   every step: done, running, waiting, and why it will be run again
  dry-run  the steps as they would be run, rounds written out
  verify   nothing is run; all outputs are compared with the digests they were written with
"""
EXAMPLES = """\
examples:
  Llama 2's five rounds on two cores
    llama-align rounds run recipes/herd-nano/llama2.yaml --output-dir runs/llama2 --jobs 2

  up to the choice of the second round
    llama-align rounds run recipes/herd-nano/llama2.yaml --output-dir runs/llama2 --until best-2
"""


def add_options(one: argparse.ArgumentParser) -> None:
    one.description, one.epilog = DESCRIPTION, EXAMPLES
    actions = one.add_subparsers(dest="action", metavar="{run,status,dry-run,verify}", required=True)
    for name in ("run", "status", "dry-run", "verify"):
        action = actions.add_parser(name)
        action.add_argument("plan", metavar="PLAN", help="YAML with the steps")
        action.add_argument("--output-dir", metavar="DIR", help="the run's folder (default: runs/ and the plan's name)")
        action.add_argument(
            "--recipes",
            metavar="DIR",
            help="folder of the recipe scripts (default: those above the plan, else those that come with the package)",
        )
        action.add_argument("--seed", type=int, help="instead of the plan's; added to the seed of every step")
        action.add_argument("--launch", metavar="NAME", help="accelerate configuration instead of the plan's")
        action.add_argument("--executor", metavar="NAME", help="how steps are run instead of as the plan says")
        older = "take for finished what older code has made of the same settings"
        action.add_argument("--accept-older", action="store_true", help=older)
        if name in ("run", "dry-run"):
            action.add_argument("--from", dest="start", metavar="STEP", help="run none before this step")
            action.add_argument("--until", metavar="STEP", help="run none behind this step")
            action.add_argument("--only", nargs="+", metavar="STEP", help="run no others than these")
        if name == "run":
            action.add_argument("--jobs", type=int, default=1, metavar="N", help="steps at work at once (default: 1)")
            action.add_argument("--verbose", action="store_true", help="show all that steps print")
            action.add_argument("--price", type=float, metavar="P", help="of an hour, for the cost in the report")


def main(options: argparse.Namespace) -> int:
    from ..rounds.command import main as rounds  # imports what trains, which the others do not need

    return rounds(options)
