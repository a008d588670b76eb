"""Collects preferences: pairs of answers to a prompt, sampled from one or several checkpoints, graded by annotators.

    python recipes/annotate.py --config recipes/herd-nano/annotate.yaml

Annotators: the sandbox's (the exact judge seen through noise), reward models (the score gap gives the grade), or
people, whom `llama-align people serve` asks: the recipe prepares their batch, ends with exit code 79 while it is not
full, and leaves the same files when it is.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.annotate import (
    LEFT_OUT,
    Annotate,
    check_tasks,
    judge_annotator,
    pick_pairs,
    reward_annotator,
    safety_bins,
    take_turns,
)
from llama_align.data import OBJECTIVES, Prompt, load_records, write_jsonl
from llama_align.people import Candidate, Settings, finish_or_wait, make_items, prepare, prepared, read_guidelines
from llama_align.recipe.engines import EngineSettings
from llama_align.rewards.models import RewardModels
from llama_align.runtime.identity import checkpoint_name
from llama_align.runtime.progress import parts
from llama_align.sampling import Draft, SamplingParams
from llama_align.sampling.memory import release

Pair = tuple[Draft, Draft]
Source = tuple[float, str]  # a temperature and a checkpoint


@dataclass
class AnnotateArguments:
    output_dir: str = field(metadata={"help": "where preferences.jsonl goes"})
    models: list[str] = field(
        default_factory=list, metadata={"help": "checkpoints; answers are drawn from all of them"}
    )
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of prompts"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    annotator: str = field(default="sandbox", metadata={"help": "sandbox (exact judge with noise), reward or people"})
    noise: float = field(default=0.1, metadata={"help": "of the sandbox's annotators, on a quality of 0 to 1"})
    annotators: int = field(default=1, metadata={"help": "of the sandbox's, how many grade each pair; most decide"})
    leave_out: list[str] = field(
        default_factory=list,
        metadata={"help": "ties: graded no more than negligibly better; disputed: not all annotators agree"},
    )
    reward_models: dict[str, str] = field(
        default_factory=dict, metadata={"help": "checkpoints by name, for annotator: reward"}
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})
    answers: int = field(
        default=4, metadata={"help": "answers per prompt, checkpoint and temperature, to pick two different ones from"}
    )
    pairs: int = field(default=1, metadata={"help": "pairs per prompt at most, each of two answers that differ"})
    temperature: list[float] = field(
        default_factory=lambda: [1.0], metadata={"help": "one or several; answers are drawn at all of them"}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})
    round: int = field(default=1, metadata={"help": "number of the round, written into the preferences"})
    engine: str = field(default="auto", metadata={"help": "auto, native, transformers or vllm"})
    engine_options: dict = field(
        default_factory=dict, metadata={"help": "of vllm.LLM: tensor_parallel_size, gpu_memory_utilization, ..."}
    )
    dtype: str = field(
        default="auto", metadata={"help": "of policies and reward models: float32, bfloat16, or auto: their own"}
    )
    seed: int = field(default=0, metadata={"help": "of sampling and of the annotators"})
    own_prompts: dict[str, int] = field(
        default_factory=dict,
        metadata={"help": "how many prompts people write themselves, by objective; answers are drawn meanwhile"},
    )
    turns: int = field(default=1, metadata={"help": "of people's conversations at most, each on the chosen answer"})
    overlap: float = field(default=0.0, metadata={"help": "share of the items that several people answer"})
    overlap_people: int = field(default=2, metadata={"help": "how many these are given to"})
    second_look: float = field(
        default=0.0, metadata={"help": "share of the items, others than these, that another person looks at again"}
    )
    gold: list[dict] = field(
        default_factory=list, metadata={"help": "sources of preferences known to be right, to see how people work"}
    )
    gold_share: float = field(default=0.0, metadata={"help": "of what somebody sees, asked of gold"})
    guidelines: dict[str, str] = field(
        default_factory=dict, metadata={"help": "files of Markdown by objective, instead of the project's own"}
    )

    def __post_init__(self):
        if not isinstance(self.temperature, list):  # a YAML may name one alone
            self.temperature = [self.temperature]


OF_PEOPLE = (
    *("own_prompts", "turns", "overlap", "overlap_people", "second_look", "gold", "gold_share", "guidelines"),
)  # fmt: skip
OF_OTHERS = ("noise", "annotators", "leave_out", "reward_models", "safety_threshold")


def check(args: AnnotateArguments) -> None:
    """Raises RecipeError for what is missing, or an option that this annotator does not read."""
    for name, expected in (("models", "checkpoint"), ("temperature", "number")):
        if not getattr(args, name):
            raise recipe.RecipeError(f"{name}: found none, expected at least one {expected}")
    people, default = args.annotator == "people", AnnotateArguments(args.output_dir)
    for name in OF_OTHERS if people else OF_PEOPLE:
        if (found := getattr(args, name)) != getattr(default, name):
            expected = "none of people" if people else "it for annotator: people alone"
            raise recipe.RecipeError(f"{name}: found {found} with annotator: {args.annotator}, expected {expected}")
    if unknown := sorted(set(args.own_prompts) - set(OBJECTIVES)):
        raise recipe.RecipeError(f"own_prompts: found {unknown[0]!r}, expected {' or '.join(OBJECTIVES)}")
    if args.overlap + args.second_look > 1:
        found = f"{args.second_look} beside overlap {args.overlap}"
        raise recipe.RecipeError(
            f"second_look: found {found}, expected at most 1 together; what several answer has none"
        )
    if bool(args.gold) != (args.gold_share > 0):
        found = "gold without it" if args.gold else "it without gold"
        raise recipe.RecipeError(f"gold_share: found {found}, expected both or neither")


def make_annotator(args: AnnotateArguments, prompts: list[Prompt]) -> Annotate:
    if not set(args.leave_out) <= set(LEFT_OUT):
        raise recipe.RecipeError(f"leave_out: found {args.leave_out}, expected some of {', '.join(LEFT_OUT)}")
    if args.annotators > 1 and args.annotator != "sandbox":
        raise recipe.RecipeError(f"annotators: found {args.annotators}, expected 1 with annotator {args.annotator}")
    if "disputed" in args.leave_out and args.annotators == 1:
        raise recipe.RecipeError("leave_out: found disputed with one annotator, expected annotators: 2 or more")
    if args.annotator == "sandbox":
        check_tasks(prompts)
        if args.noise < 0:
            raise recipe.RecipeError(f"noise: found {args.noise}, expected 0 or more")
        return judge_annotator(args.noise, args.seed, args.annotators, args.leave_out)
    if args.annotator != "reward":
        raise recipe.RecipeError(f"annotator: found {args.annotator!r}, expected sandbox, reward or people")
    if not args.reward_models:
        raise recipe.RecipeError("reward_models: found none, expected checkpoints by name for annotator: reward")
    load = partial(recipe.load_reward_model, dtype=args.dtype)
    rewards = RewardModels.load(args.reward_models, load, args.safety_threshold)
    return reward_annotator(rewards, args.leave_out)


def load(args: AnnotateArguments, settings: EngineSettings) -> list[Prompt]:
    first = args.models[0]
    return recipe.load_prompts(
        args.datasets,
        first,
        recipe.load_tokenizer(first),
        args.max_new_tokens,
        args.too_long,
        seed=args.seed,
        context=settings.context(first),
    )


def draw(
    path: str, settings: EngineSettings, prompts: list[Prompt], params: SamplingParams, keys: range
) -> list[list[Draft]]:
    """Answers of one checkpoint, which is given up afterwards."""
    release()
    return settings.sampler(path)([p.messages for p in prompts], params, keys, progress=True)


def sample(
    args: AnnotateArguments, settings: EngineSettings, prompts: list[Prompt]
) -> tuple[list[tuple[Prompt, Pair]], dict[int, Source]]:
    """Pairs to choose from, and where each draft is from, by its identity."""
    params = SamplingParams(args.answers, args.max_new_tokens, seed=args.seed)
    drafts = []
    sources = list(product(args.temperature, args.models))
    for number, _ in enumerate(parts([f"{Path(path).name} at {heat:g}" for heat, path in sources])):
        heat, path = sources[number]
        # streams of its own, so that checkpoints that hardly differ do not draw the same answers
        keys = range(number * len(prompts), (number + 1) * len(prompts))
        drafts.append(draw(path, settings, prompts, replace(params, temperature=heat), keys))
    pools = [take_turns(groups, number) for number, groups in enumerate(zip(*drafts, strict=True))]
    pairs = [
        (prompt, pair) for prompt, pool in zip(prompts, pools, strict=True) for pair in pick_pairs(pool, args.pairs)
    ]
    made = {
        id(one): source for source, groups in zip(sources, drafts, strict=True) for group in groups for one in group
    }
    return pairs, {id(one): made[id(one)] for _, pair in pairs for one in pair}


def ask_people(args: AnnotateArguments, pairs: list[tuple[Prompt, Pair]], made: dict[int, Source], **read) -> None:
    """Prepares the batch of people."""

    def candidate(draft: Draft) -> Candidate:
        heat, path = made[id(draft)]
        return Candidate(draft.answer, draft.finished, checkpoint_name(path), heat)

    rows = [(p.objective, p.messages, (candidate(a), candidate(b)), p.source) for p, (a, b) in pairs]
    items = make_items(
        rows, args.own_prompts, read["gold"], args.seed, args.overlap, args.overlap_people, args.second_look
    )
    settings = Settings(
        round=args.round,
        seed=args.seed,
        turns=args.turns,
        gold_share=args.gold_share,
        models=args.models,
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        engine=args.engine,
        engine_options=args.engine_options,
        dtype=args.dtype,
        guidelines=read["guidelines"],
    )
    prepare(args.output_dir, settings, items, asdict(args))


def main(args: AnnotateArguments) -> None:
    recipe.one_process()
    check(args)
    if args.annotator == "people" and prepared(args.output_dir, asdict(args)):
        return finish_or_wait(args.output_dir)
    for path in args.models:
        recipe.check_checkpoint(path, "causal")
    for path in args.reward_models.values() if args.annotator == "reward" else ():
        recipe.check_reward_model(path)
    settings = EngineSettings(args.engine, args.dtype, args.engine_options)
    prompts = load(args, settings) if args.datasets or not args.own_prompts else []
    if args.annotator == "people":
        gold = load_records(args.gold, "preference", seed=args.seed)[0] if args.gold else []
        read = {"gold": gold, "guidelines": read_guidelines(args.guidelines)}  # before hours of sampling
        pairs, made = sample(args, settings, prompts) if prompts else ([], {})
        ask_people(args, pairs, made, **read)
        return finish_or_wait(args.output_dir)
    annotate = make_annotator(args, prompts)  # as well
    pairs, _ = sample(args, settings, prompts)
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
