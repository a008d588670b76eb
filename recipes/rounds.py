"""Runs a whole chain of stages from one YAML; interrupted, the same command goes on where it stopped.

python recipes/rounds.py --plan recipes/herd-nano/rounds.yaml --output_dir runs/demo
"""

from dataclasses import dataclass, field
from pathlib import Path

from llama_align import recipe
from llama_align.report import write_report
from llama_align.rounds import Plan, PlanError, Run


@dataclass
class RoundsArguments:
    plan: str = field(metadata={"help": "YAML with the steps"})
    output_dir: str = field(metadata={"help": "the run's directory"})
    until: str | None = field(default=None, metadata={"help": "stop after this step"})
    seed: int | None = field(
        default=None,
        metadata={"help": "instead of the plan's; added to the seed of every step (another draw of it all)"},
    )
    launch: str | None = field(
        default=None,
        metadata={"help": "accelerate configuration instead of the plan's; that of a step's own stays"},
    )
    verify: bool = field(
        default=False, metadata={"help": "run nothing: compare the outputs of finished steps with their digests"}
    )


def main(args: RoundsArguments) -> None:
    recipes = Path(__file__).parent
    try:
        plan = Plan.load(args.plan, recipes, args.seed, args.launch)
    except PlanError as error:
        raise recipe.RecipeError(str(error)) from error
    report = Path(args.output_dir) / "report.html"
    run = Run(plan, Path(args.output_dir), recipes, report=lambda folder: write_report(folder, report, title=plan.name))
    if args.verify:
        run.verify()
    else:
        run.execute(args.until)
        if args.until is None:
            print(f"\nreport: {report}")


if __name__ == "__main__":
    recipe.run(main, RoundsArguments, doc=__doc__)
