"""Rejection sampling: K answers per prompt, scored by reward models, the best kept (Llama 2, section 3.2.3).

    python recipes/rejection_sampling.py --config recipes/herd-nano/rejection_sampling.yaml

Shards are written as they finish; a restart with the same output_dir goes on behind the last whole one. Under
`accelerate launch` each process samples and scores its own shards; the results are the same bytes if its number of
threads is the same (OMP_NUM_THREADS).
"""

from dataclasses import dataclass, field
from itertools import product

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.data import load_records, write_jsonl
from llama_align.recipe.engines import CachedEngineOptions
from llama_align.rejection import run as rejection
from llama_align.rejection.best_of_k import GRADE_THRESHOLDS
from llama_align.rejection.candidates import answer_pool, rewarded
from llama_align.rejection.draws import Draws, sources
from llama_align.rejection.judges import Judges
from llama_align.report import save_best_of_k
from llama_align.rewards.score_cache import CachedRewards
from llama_align.runtime import processes
from llama_align.sampling import SamplingParams


@dataclass
class RejectionSamplingArguments(CachedEngineOptions):
    output_dir: str = field(metadata={"help": "where samples.jsonl, best.jsonl and preferences.jsonl go"})
    model: list[str] = field(default_factory=list, metadata={"help": "checkpoints to sample from, one or several"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of prompts"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    reward_models: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "checkpoints by name; helpfulness and safety are combined as in Llama 2"},
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})
    score_cache: str | None = field(
        default=None, metadata={"help": "folder of scores, may be shared by runs; None: scores/ in output_dir"}
    )
    answers: int = field(default=10, metadata={"help": "K: answers per prompt and source; Llama 3 takes 10 to 30"})
    temperature: list[float] = field(
        default_factory=lambda: [1.0], metadata={"help": "one or several; Llama 2 found 1.2 to 1.3 best at 70B"}
    )
    temperature_search: list[float] = field(
        default_factory=list,
        metadata={"help": "try these on search_datasets and sample each checkpoint at its best, not at temperature"},
    )
    search_datasets: list[dict] = field(
        default_factory=list, metadata={"help": "sources of held-out prompts for the search, a hundred or so"}
    )
    top_p: float = field(default=1.0, metadata={"help": "nucleus"})
    top_k: int = field(default=0, metadata={"help": "only the k likeliest tokens; 0: all"})
    min_p: float = field(default=0.0, metadata={"help": "no token less likely than this share of the likeliest"})
    repetition_penalty: float = field(default=1.0, metadata={"help": "on scores of tokens already seen; 1: none"})
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})
    earlier: list[str] = field(default_factory=list, metadata={"help": "samples.jsonl of earlier rounds, scored anew"})
    select: list[str] = field(
        default_factory=lambda: ["best_of_rounds"],
        metadata={"help": "best_of_k, best_of_rounds, top_share: best.jsonl; best_against_worst: preferences.jsonl"},
    )
    share: float = field(default=0.25, metadata={"help": "top_share: of the answers to each prompt, at least one"})
    rank: str | None = field(
        default=None,
        metadata={"help": "of prompts: per_prompt (default: score less the prompt's mean), standardised, raw"},
    )
    threshold: float | None = field(
        default=None, metadata={"help": "least rank of what goes into best.jsonl; needs `rank`, whose unit it has"}
    )
    keep: float = field(default=1.0, metadata={"help": "share of best.jsonl kept, highest rank first"})
    gaps: dict[str, float] = field(
        default_factory=lambda: dict(GRADE_THRESHOLDS),
        metadata={"help": "best_against_worst: grade -> least gap between the scores"},
    )
    heldout_models: dict[str, str] = field(
        default_factory=dict, metadata={"help": "reward models by name that choose nothing and score what was chosen"}
    )
    judge: str = field(default="none", metadata={"help": "sandbox: the exact judge scores what was chosen, too"})
    prompts_per_shard: int = field(default=512, metadata={"help": "prompts sampled between two writes"})
    round: int = field(default=1, metadata={"help": "number of the round, written into the samples"})
    seed: int = field(default=0, metadata={"help": "of sampling"})
    part: str | None = field(default=None, metadata={"help": "sample this part of the shards alone, as 0/8 to 7/8"})

    def __post_init__(self):
        for name in ("model", "temperature", "temperature_search", "earlier", "select"):  # a YAML may name one alone
            value = getattr(self, name)
            setattr(self, name, value if isinstance(value, list) else [value])


def main(args: RejectionSamplingArguments) -> None:
    group = processes.join()
    choice = rejection.check(args)
    settings = args.engine_settings()
    load = rejection.samplers(settings, group)
    earlier = load_records(args.earlier, "sample")[0]
    prompts, search_prompts = (
        rejection.prompts_for(args, datasets, settings, group) for datasets in (args.datasets, args.search_datasets)
    )
    rejection.check_heldout(prompts, search_prompts)
    earlier = rejection.fitting_earlier(args, earlier, group)
    size = args.prompts_per_shard * args.answers
    folder = args.score_cache or f"{args.output_dir}/scores"
    cache = rejection.judge_loader(load, args.dtype), args.safety_threshold, folder, size, group, args.dtype
    rewards = CachedRewards(args.reward_models, *cache)
    judges = Judges(args.judge, args.heldout_models, *cache)
    judges.check([*prompts, *earlier])
    filters = {name: getattr(args, name) for name in ("top_p", "top_k", "min_p", "repetition_penalty")}
    params = SamplingParams(args.answers, args.max_new_tokens, **filters)
    draws = Draws(args.output_dir, params, args.prompts_per_shard, args.round, settings.identity, load, group)
    draws.part = rejection.part_of(args.part)

    # Llama 2 found the best temperature anew in every round
    heats, search = list(product(args.model, args.temperature)), None
    if args.temperature_search:
        heats, search = rejection.search_temperatures(
            draws, rewards, args.model, args.temperature_search, search_prompts, args.seed
        )
    drawn = [sample for source in sources(heats, args.seed) for sample in draws(source, prompts)]
    if draws.part:
        return
    samples = [*drawn, *earlier]
    samples = rewarded(samples, rewards(samples), judges(samples))
    if not group.is_main:
        return
    rejection.remove_earlier_choice(args.output_dir)
    write_jsonl(f"{args.output_dir}/samples.jsonl", samples[: len(drawn)])
    score = rewards.main
    pool, counts = answer_pool(samples)
    best, pairs = choice.answers(pool, score), choice.pairs(pool, score, args.round)
    rejection.write_choice(args.output_dir, choice, best, pairs, counts)
    shape = len(heats), len(prompts), args.answers
    metrics = counts | rejection.metrics_of(samples, pool, best, pairs, score, judges.names, shape)
    metrics |= {"truncated": rewards.truncated | judges.truncated} | ({"rank": choice.rank} if choice.rule else {})
    metrics |= {"temperature_search": search} if search else {}
    recipe.write_json(f"{args.output_dir}/metrics.json", metrics)
    save_best_of_k(f"{args.output_dir}/best_of_k.svg", (search or {}).get("curves") or metrics["best_of_k"])
    recipe.say(", ".join(f"{name} {value}" for name, value in metrics.items() if isinstance(value, int)))
    for alarm in metrics["alarms"]:
        recipe.say(f"ALARM {alarm}")


if __name__ == "__main__":
    recipe.run(main, RejectionSamplingArguments, doc=__doc__)
