"""Rejection sampling: K answers per prompt, scored by reward models, the best kept (Llama 2, section 3.2.3).

    python recipes/rejection_sampling.py --config recipes/herd-nano/rejection_sampling.yaml

Shards are written as they finish; a restart with the same output_dir goes on behind the last whole one.
"""

from dataclasses import dataclass, field

from llama_align import recipe
from llama_align.data import Sample, load_records, write_jsonl
from llama_align.metrics.functional import describe
from llama_align.sampling import DialogSampler, SamplingParams
from llama_align.sampling.identity import checkpoint_digest, records_digest
from llama_align.sampling.rewards import RewardModels
from llama_align.sampling.shards import Shards, best_samples

NOT_SAMPLED = ("output_dir", "datasets", "earlier", "keep")  # what no sample depends on


@dataclass
class RejectionSamplingArguments:
    output_dir: str = field(metadata={"help": "where samples.jsonl and best.jsonl go"})
    model: str = field(default="", metadata={"help": "checkpoint to sample from"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of prompts"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    reward_models: dict = field(
        default_factory=dict,
        metadata={"help": "checkpoints by name; helpfulness and safety are combined as in Llama 2"},
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})
    answers: int = field(default=10, metadata={"help": "K: answers per prompt; Llama 3 takes 10 to 30"})
    temperature: float = field(default=1.0, metadata={"help": "Llama 2 found 1.2 to 1.3 best at 70B"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus"})
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})
    earlier: list[str] = field(
        default_factory=list, metadata={"help": "samples.jsonl of earlier rounds that compete too (Llama 2 kept them)"}
    )
    keep: float = field(default=1.0, metadata={"help": "share of the best answers kept, highest score first"})
    prompts_per_shard: int = field(default=512, metadata={"help": "prompts sampled between two writes"})
    round: int = field(default=1, metadata={"help": "number of the round, written into the samples"})
    engine: str = field(default="auto", metadata={"help": "auto, native, transformers or vllm"})
    seed: int = field(default=0, metadata={"help": "of sampling"})


def main(args: RejectionSamplingArguments) -> None:
    recipe.one_process()
    if not args.reward_models:
        raise recipe.RecipeError("reward_models: found none, expected checkpoints by name")
    if not 0 < args.keep <= 1:
        raise recipe.RecipeError(f"keep: found {args.keep}, expected a share above 0 and at most 1")
    recipe.check_weights(args.model)
    earlier = load_records(args.earlier, "sample")[0]
    tokenizer = recipe.load_tokenizer(args.model)
    prompts = recipe.load_prompts(
        args.datasets, args.model, tokenizer, args.max_new_tokens, args.too_long, seed=args.seed
    )
    sampler = DialogSampler(recipe.sampling_model(args.model, tokenizer, args.engine), tokenizer, args.engine)
    rewards = RewardModels.load(args.reward_models, recipe.load_reward_model, args.safety_threshold)
    params = SamplingParams(
        args.answers, args.max_new_tokens, temperature=args.temperature, top_p=args.top_p, seed=args.seed
    )

    def sample_shard(first: int, last: int) -> list[Sample]:
        part = prompts[first:last]
        drafts = sampler([p.messages for p in part], params, keys=range(first, last), progress=True)
        pairs = [(prompt, draft) for prompt, group in zip(part, drafts, strict=True) for draft in group]
        scores = rewards(
            [p.messages for p, _ in pairs],
            [d.text for _, d in pairs],
            [d.finished for _, d in pairs],
            [{"objective": p.objective} for p, _ in pairs],
        )
        return [
            Sample(
                prompt=prompt.messages,
                completion=draft.text,
                finished=draft.finished,
                checkpoint=args.model,
                temperature=args.temperature,
                seed=args.seed,
                rewards={name: values[i] for name, values in scores.items()},
                objective=prompt.objective,
                round=args.round,
                task=prompt.task,
            )
            for i, (prompt, draft) in enumerate(pairs)
        ]

    identity = {name: value for name, value in vars(args).items() if name not in NOT_SAMPLED}
    identity |= {
        "prompts": records_digest(prompts),
        "checkpoints": {p: checkpoint_digest(p) for p in (args.model, *args.reward_models.values())},
    }
    samples = Shards(args.output_dir, len(prompts), args.prompts_per_shard, identity).run(sample_shard)
    write_jsonl(f"{args.output_dir}/samples.jsonl", (s.to_dict() for s in samples))
    best, counts = best_samples(samples + earlier, rewards.main, args.keep)
    if not best:
        raise recipe.RecipeError(
            f"{args.output_dir}/samples.jsonl: found only cut ({counts['cut']}) and empty ({counts['empty']}) answers, "
            "expected some that ended by themselves; raise max_new_tokens or train longer"
        )
    write_jsonl(
        f"{args.output_dir}/best.jsonl",
        ({"messages": [*s.prompt, {"role": "assistant", "content": s.completion}], "source": "sampled"} for s in best),
    )
    score = rewards.main
    metrics = {
        **counts,
        "score": score,
        "all": describe([s.rewards[score] for s in samples]),
        "best": describe([s.rewards[score] for s in best]),
    }
    recipe.write_json(f"{args.output_dir}/metrics.json", metrics)
    print(", ".join(f"{name} {value}" for name, value in counts.items()))


if __name__ == "__main__":
    recipe.run(main, RejectionSamplingArguments, doc=__doc__)
