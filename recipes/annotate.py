"""Collects preferences: pairs of answers to a prompt, sampled from one or several checkpoints, graded by annotators.

    python recipes/annotate.py --config recipes/herd-nano/annotate.yaml

Annotators: the sandbox's (the exact judge seen through noise), reward models (the score gap gives the grade), or
people, whom `llama-align people serve` asks: the recipe prepares their batch, ends with exit code 79 while it is not
full, and leaves the same files when it is.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from functools import partial

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.annotate import AnnotatorOptions, draw_pairs, safety_bins
from llama_align.data import Prompt, load_records, write_jsonl
from llama_align.people import PeopleOptions, ask_people, finish_or_wait, prepared, read_guidelines
from llama_align.recipe.engines import EngineOptions, EngineSettings
from llama_align.sampling import SamplingParams


@dataclass
class AnnotateArguments(AnnotatorOptions, PeopleOptions, EngineOptions):
    output_dir: str = field(metadata={"help": "where preferences.jsonl goes"})
    models: list[str] = field(
        default_factory=list, metadata={"help": "checkpoints; answers are drawn from all of them"}
    )
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of prompts"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    annotator: str = field(default="sandbox", metadata={"help": "sandbox (exact judge with noise), reward or people"})
    answers: int = field(
        default=4, metadata={"help": "answers per prompt, checkpoint and temperature, to pick two different ones from"}
    )
    pairs: int = field(default=1, metadata={"help": "pairs per prompt at most, each of two answers that differ"})
    temperature: list[float] = field(
        default_factory=lambda: [1.0], metadata={"help": "one or several; answers are drawn at all of them"}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})
    round: int = field(default=1, metadata={"help": "number of the round, written into the preferences"})
    seed: int = field(default=0, metadata={"help": "of sampling and of the annotators"})

    def __post_init__(self):
        if not isinstance(self.temperature, list):  # a YAML may name one alone
            self.temperature = [self.temperature]


def check(args: AnnotateArguments) -> None:
    """Raises RecipeError for what is missing, or an option that this annotator does not read."""
    for name, expected in (("models", "checkpoint"), ("temperature", "number")):
        if not getattr(args, name):
            raise recipe.RecipeError(f"{name}: found none, expected at least one {expected}")
    people, default = args.annotator == "people", AnnotateArguments(args.output_dir)
    for name in (one.name for one in fields(AnnotatorOptions if people else PeopleOptions)):
        if (found := getattr(args, name)) != getattr(default, name):
            expected = "none of people" if people else "it for annotator: people alone"
            raise recipe.RecipeError(f"{name}: found {found} with annotator: {args.annotator}, expected {expected}")
    args.check_people()


def load(args: AnnotateArguments, settings: EngineSettings) -> list[Prompt]:
    first = args.models[0]
    tokenizer, context = recipe.load_tokenizer(first), settings.context(first)
    how = {"seed": args.seed, "context": context}
    return recipe.load_prompts(args.datasets, first, tokenizer, args.max_new_tokens, args.too_long, **how)


def main(args: AnnotateArguments) -> None:
    recipe.one_process()
    check(args)
    if args.annotator == "people" and prepared(args.output_dir, asdict(args)):
        return finish_or_wait(args.output_dir)
    for path in args.models:
        recipe.check_checkpoint(path, "causal")
    for path in args.reward_models.values() if args.annotator == "reward" else ():
        recipe.check_reward_model(path)
    settings = args.engine_settings()
    prompts = load(args, settings) if args.datasets or not args.own_prompts else []
    params = SamplingParams(args.answers, args.max_new_tokens, seed=args.seed)
    sample = partial(draw_pairs, prompts, args.models, args.temperature, settings, params, args.pairs)
    if args.annotator == "people":
        gold = load_records(args.gold, "preference", seed=args.seed)[0] if args.gold else []
        guidelines = read_guidelines(args.guidelines)  # before hours of sampling
        pairs, made = sample() if prompts else ([], {})
        ask_people(args, pairs, made, gold, guidelines)
        return finish_or_wait(args.output_dir)
    annotate = args.make_annotator(args.annotator, args.dtype, args.seed, prompts)  # as well
    pairs, _ = sample()
    batch = annotate(pairs, args.round)
    write_jsonl(f"{args.output_dir}/preferences.jsonl", batch.preferences)
    grades = dict(sorted(Counter(preference.grade for preference in batch.preferences).items()))
    counts = {"prompts": len(prompts), "pairs": len(pairs), "preferences": len(batch.preferences)}
    told = {"grades": grades, "left_out": dict(batch.left_out), "safety": safety_bins(batch.preferences)}
    recipe.write_json(f"{args.output_dir}/metrics.json", counts | told | batch.facts)
    recipe.say(f"{counts} {grades}")
    return None


if __name__ == "__main__":
    recipe.run(main, AnnotateArguments, doc=__doc__)
