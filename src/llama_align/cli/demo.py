"""`llama-align demo`."""

import argparse

from ..runtime.shipped import shipped


def add_options(one: argparse.ArgumentParser) -> None:
    one.description = (
        "Runs recipes/herd-nano/rounds.yaml: a sandbox, a tokenizer, pretraining, SFT, preferences, two reward\n"
        "models, rejection sampling, PPO, DPO, averaging and an exact evaluation, on two cores in 7 to 23 minutes. It\n"
        "ends with a table by stage and report.html. Interrupted, the same command goes on where it stopped."
    )
    one.add_argument("--output-dir", default="runs/demo", metavar="DIR", help="the run's folder (default: runs/demo)")
    one.add_argument("--seed", type=int, help="of another draw of it all")
    one.add_argument("--jobs", type=int, default=1, metavar="N", help="steps at work at once (default: 1)")
    one.add_argument("--until", metavar="STEP", help="run none behind this step")
    one.add_argument("--verbose", action="store_true", help="show all that steps print")


def main(options: argparse.Namespace) -> int:
    from ..recipe import exit_code  # imports what trains
    from ..rounds.command import bind

    def run() -> None:
        recipes = shipped("recipes")
        made = bind(recipes / "herd-nano" / "rounds.yaml", options.output_dir, recipes, options.seed)
        made.execute(options.until, jobs=options.jobs, verbose=options.verbose)

    return exit_code(run)
