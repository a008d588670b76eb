"""Runs a whole chain of stages from one YAML; interrupted, the same command goes on where it stopped.

    python recipes/rounds.py --plan recipes/herd-nano/rounds.yaml --output_dir runs/demo

`llama-align rounds` does the same and says how a run stands.
"""

from dataclasses import dataclass, field
from pathlib import Path

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.rounds.command import bind


@dataclass
class RoundsArguments:
    plan: str = field(metadata={"help": "YAML with the steps"})
    output_dir: str = field(metadata={"help": "the run's directory"})
    until: str | None = field(default=None, metadata={"help": "stop after this step"})
    jobs: int = field(default=1, metadata={"help": "steps at work at once, each as soon as its inputs are finished"})
    seed: int | None = field(
        default=None,
        metadata={"help": "instead of the plan's; added to the seed of every step (another draw of it all)"},
    )
    launch: str | None = field(
        default=None,
        metadata={"help": "accelerate configuration instead of the plan's; that of a step's own stays"},
    )
    executor: str | None = field(
        default=None,
        metadata={"help": "how steps are run instead of as the plan says; inline: start-up is paid once for all"},
    )
    accept_older: bool = field(
        default=False, metadata={"help": "take for finished what older code has made of the same settings"}
    )
    verbose: bool = field(default=False, metadata={"help": "show all that steps print, not only in output.log"})
    verify: bool = field(
        default=False, metadata={"help": "run nothing: compare the outputs of finished steps with their digests"}
    )


def main(args: RoundsArguments) -> None:
    run = bind(
        args.plan, args.output_dir, Path(__file__).parent, args.seed, args.launch, args.executor, args.accept_older
    )
    if args.verify:
        run.verify()
    else:
        run.execute(args.until, jobs=args.jobs, verbose=args.verbose)


if __name__ == "__main__":
    recipe.run(main, RoundsArguments, doc=__doc__)
