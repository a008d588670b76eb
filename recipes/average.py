"""Averages the weights of several checkpoints (Llama 3, section 4.1.5).

python recipes/average.py --config recipes/herd-nano/average.yaml
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.averaging import average_checkpoints


@dataclass
class AverageArguments:
    output_dir: str = field(metadata={"help": "where the average goes"})
    models: list[str] = field(default_factory=list, metadata={"help": "checkpoints to average"})
    weights: list[float] | None = field(default=None, metadata={"help": "one for each checkpoint (default: equal)"})
    last: int | None = field(
        default=None,
        metadata={"help": "of every folder in models its last so many checkpoint-<step>, as of a run's annealing"},
    )


def last_of(run: str, count: int) -> list[str]:
    """The folders of a run's last checkpoints, in their order.

    Raises:
        RecipeError: there are fewer, or one is not whole.
    """
    found = recipe.checkpoints_of(run)
    if len(found) < count:
        raise recipe.RecipeError(f"last: found {count}, expected at most {len(found)}, the checkpoints in {run}")
    for path in found[-count:]:
        if problem := recipe.incomplete(path):
            raise recipe.RecipeError(f"last: {problem}; remove {path}, or name other checkpoints in models")
    return [str(path) for path in found[-count:]]


def main(args: AverageArguments) -> None:
    recipe.one_process()
    if args.last is not None:
        args.models = [path for run in args.models for path in last_of(run, args.last)]
    for path in args.models:
        recipe.check_checkpoint(path)
        if os.path.realpath(path) == os.path.realpath(args.output_dir):
            raise recipe.RecipeError(f"output_dir: found {args.output_dir!r}, one of models, expected one of its own")
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".merged.", dir=args.output_dir) as folder:
        wholes = [recipe.whole_weights(path, f"{folder}/{number}") for number, path in enumerate(args.models)]
        try:
            distances = average_checkpoints(wholes, args.output_dir, args.weights)
        except ValueError as error:  # checkpoints or weights that do not go together
            raise recipe.RecipeError(f"average: {error}") from error
    distances = {path: distances[place] for path, place in zip(args.models, wholes, strict=True)}
    found = {"checkpoints": len(args.models), "relative_distance": [round(d, 6) for d in distances.values()]}
    recipe.write_made(args.output_dir, "average", args.models, found)
    recipe.write_json(f"{args.output_dir}/metrics.json", found)
    for path, distance in distances.items():
        recipe.say(f"{distance:8.4f}  relative distance of {path} from the average")


if __name__ == "__main__":
    recipe.run(main, AverageArguments, doc=__doc__)
