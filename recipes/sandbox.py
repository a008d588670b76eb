"""Write a small closed world: corpus, demonstrations, preferences, prompts and held-out tasks with an exact judge.

    python recipes/sandbox.py --config recipes/herd-nano/sandbox.yaml

Any option can be set on the command line too, as in `--seed 1 --documents 2000`. Equal options give equal bytes.
"""

from dataclasses import dataclass, field
from pathlib import Path

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.recipe import RecipeError, one_process, run, say, write_json
from llama_align.sandbox import DemonstrationNoise, SandboxConfig, write_sandbox


@dataclass
class SandboxArguments(SandboxConfig):
    output_dir: str = field(
        default="runs/herd-nano/sandbox", metadata={"help": "the directory of the JSON lines files"}
    )


def main(args: SandboxArguments, noise: DemonstrationNoise) -> None:
    one_process()
    try:
        counts = write_sandbox(args.output_dir, args, noise)
    except ValueError as error:
        raise RecipeError(f"sandbox: {error}") from error
    write_json(Path(args.output_dir) / "metrics.json", counts)
    say(f"{args.output_dir}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    run(main, SandboxArguments, DemonstrationNoise, doc=__doc__)
