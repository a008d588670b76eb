"""Trains a reward model with a margin by grade (Llama 2, section 3.2.2).

accelerate launch recipes/reward.py --config recipes/herd-nano/reward_helpfulness.yaml
"""

from dataclasses import dataclass, field

from transformers import set_seed
from trl import ModelConfig

from llama_align import recipe
from llama_align.data import DataSource, full_rows, load_records, preference_rows
from llama_align.sampling import RewardScorer
from llama_align.trainers import HerdRewardConfig, HerdRewardTrainer, margin_table, pair_metrics


@dataclass
class RewardArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of preferences"})
    eval_datasets: list[dict] = field(default_factory=list, metadata={"help": "held-out preferences"})
    part: list[float] | None = field(
        default=None, metadata={"help": "train on the prompts of all sources that fall into this part of [0, 1)"}
    )
    eval_part: list[float] | None = field(
        default=None, metadata={"help": "hold out the prompts of the training sources that fall into this part"}
    )
    objective: str = field(default="helpfulness", metadata={"help": "helpfulness or safety; only such pairs are used"})
    context: int = field(default=256, metadata={"help": "tokens of prompt and answer at most"})
    too_long: str = field(default="error", metadata={"help": "pairs longer than the context: error or drop"})


def main(args: RewardArguments, training: HerdRewardConfig, model_args: ModelConfig) -> None:
    # the score head starts from random weights
    set_seed(training.seed)
    tokenizer = recipe.load_tokenizer(model_args.model_name_or_path, trust_remote_code=training.trust_remote_code)
    recipe.check_length(model_args.model_name_or_path, args.context, "context")
    margins = margin_table(training.margin)

    def pairs(sources):
        records, report = load_records(sources, "preference", seed=training.seed)
        print(report)
        chosen = [r for r in records if r.objective == args.objective and r.chosen_is_safe is not False]
        unsafe = sum(r.objective == args.objective for r in records) - len(chosen)
        rows, dropped = preference_rows(chosen, tokenizer, args.context, margins, args.too_long)
        print(
            f"{len(rows)} {args.objective} pairs; left out: {unsafe} with an unsafe chosen answer, {dropped} too long"
        )
        return full_rows(rows), {"pairs": len(rows), "unsafe_chosen": unsafe, "too_long": dropped}

    def part_of(sources, part):
        return [DataSource.parse(source).of_part(part) for source in sources] if part else sources

    train, counts = pairs(part_of(args.datasets, args.part))
    trainer = HerdRewardTrainer(
        model=recipe.load_model(model_args.model_name_or_path, "reward", tokenizer, **recipe.model_kwargs(model_args)),
        args=training,
        train_dataset=train,
        processing_class=tokenizer,
        peft_config=recipe.lora_config(model_args, reward=True),
    )
    trainer.train(resume_from_checkpoint=recipe.resume_path(training.resume_from_checkpoint, training.output_dir))
    metrics = {"objective": args.objective, "margin": training.margin, **counts}
    heldout_sources = args.eval_datasets + (part_of(args.datasets, args.eval_part) if args.eval_part else [])
    if heldout_sources:
        heldout, metrics["heldout"] = pairs(heldout_sources)
        scorer = RewardScorer(trainer.accelerator.unwrap_model(trainer.model), tokenizer.pad_token_id)
        metrics |= pair_metrics(scorer, heldout)
    recipe.finish(trainer, metrics)


if __name__ == "__main__":
    recipe.run(main, RewardArguments, HerdRewardConfig, ModelConfig, doc=__doc__)
