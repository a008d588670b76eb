"""Measures reward models on pairs and on the best of several answers, beside always preferring the longer answer.

python recipes/benchmark_rewards.py --config recipes/herd-nano-real/benchmark_rewards.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.benchmarks.rewards import on_pairs, on_several
from llama_align.runtime.progress import parts
from llama_align.sampling.memory import release


@dataclass
class BenchmarkRewardsArguments:
    output_dir: str = field(metadata={"help": "where metrics.json goes"})
    reward_models: dict[str, str] = field(default_factory=dict, metadata={"help": "checkpoints by name"})
    pairs: dict[str, dict] = field(default_factory=dict, metadata={"help": "by name, a source of preferences"})
    best_of: dict[str, str] = field(default_factory=dict, metadata={"help": "by name, a file in RewardBench 2's form"})
    dtype: str = field(default="auto", metadata={"help": "of the weights: float32, bfloat16, or auto: their own"})


def main(args: BenchmarkRewardsArguments) -> None:
    recipe.one_process()
    if not args.reward_models or not (args.pairs or args.best_of):
        raise recipe.RecipeError("reward_models, pairs, best_of: found too few, expected models and something to rank")
    recipe.check_dtype(args.dtype)
    for path in args.reward_models.values():
        recipe.check_reward_model(path)
    found = {}
    for name in parts(args.reward_models):
        release()  # the one before
        model = recipe.load_reward_model(args.reward_models[name], args.dtype)
        pairs = {one: on_pairs(model, [source]) for one, source in args.pairs.items()}
        several = {one: on_several(model, file) for one, file in args.best_of.items()}
        found[name] = {"pairs": pairs, "best_of": several}
    recipe.write_json(f"{args.output_dir}/metrics.json", found)


if __name__ == "__main__":
    recipe.run(main, BenchmarkRewardsArguments, doc=__doc__)
