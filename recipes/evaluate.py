"""Measures checkpoints on the same prompts: exact score, safety, win rate under reward models, perplexity.

    python recipes/evaluate.py --config recipes/herd-nano/evaluate.yaml

A checkpoint that was measured with the same settings before is not measured again.
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.data import load_records
from llama_align.evaluation.measure import Evaluation, check_rows
from llama_align.recipe.engines import EngineOptions
from llama_align.runtime.progress import parts


@dataclass
class EvaluateArguments(EngineOptions):
    output_dir: str = field(metadata={"help": "where <row>.json, samples_<row>.jsonl and metrics.json go"})
    models: dict[str, str] = field(
        default_factory=dict, metadata={"help": "checkpoints by the name of their row, in order"}
    )
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of held-out prompts"})
    texts: list[dict] = field(default_factory=list, metadata={"help": "sources of held-out documents, for perplexity"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    judge: str = field(default="none", metadata={"help": "sandbox: score answers exactly by the prompts' tasks"})
    reward_models: dict[str, str] = field(
        default_factory=dict, metadata={"help": "judges of the win rate, checkpoints by name"}
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})
    baseline: str | None = field(
        default=None, metadata={"help": "row the others are compared with, beside the one before"}
    )
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus"})
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})
    context: int = field(default=256, metadata={"help": "tokens of a held-out document, the rest is cut"})
    seed: int = field(default=0, metadata={"help": "of sampling"})


def main(args: EvaluateArguments) -> None:
    recipe.one_process()
    check_rows(args.models, args.baseline)
    settings = args.engine_settings()
    for path in args.models.values():
        recipe.check_checkpoint(path, "causal")  # before the first of them is measured
    for path in args.reward_models.values():
        recipe.check_reward_model(path)
    texts = load_records(args.texts, "document")[0] if args.texts else []
    evaluation = Evaluation.of(args, settings, args.output_dir, texts, args.context)
    for row in parts(args.models):
        path = args.models[row]
        if evaluation.done(row, path):
            recipe.say(f"{row}: measured before")
            continue
        evaluation.measure(row, path, recipe.load_tokenizer(path), settings)
    evaluation.summary(list(args.models), args.baseline)


if __name__ == "__main__":
    recipe.run(main, EvaluateArguments, doc=__doc__)
