"""Averages the weights of several checkpoints (Llama 3, section 4.1.5).

python recipes/average.py --config recipes/herd-nano/average.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe
from llama_align.averaging import average_checkpoints


@dataclass
class AverageArguments:
    output_dir: str = field(metadata={"help": "where the average goes"})
    models: list[str] = field(default_factory=list, metadata={"help": "checkpoints to average"})
    weights: list[float] | None = field(default=None, metadata={"help": "one for each checkpoint (default: equal)"})
    seed: int = field(default=0, metadata={"help": "unused; every stage takes one"})


def main(args: AverageArguments) -> None:
    recipe.one_process()
    for path in args.models:
        recipe.check_weights(path)
    try:
        distances = average_checkpoints(args.models, args.output_dir, args.weights)
    except ValueError as error:  # checkpoints or weights that do not go together
        raise recipe.RecipeError(f"average: {error}") from error
    recipe.write_json(
        f"{args.output_dir}/metrics.json",
        {"checkpoints": len(args.models), "relative_distance": [round(d, 6) for d in distances.values()]},
    )
    for path, distance in distances.items():
        print(f"{distance:8.4f}  relative distance of {path} from the average")


if __name__ == "__main__":
    recipe.run(main, AverageArguments, doc=__doc__)
