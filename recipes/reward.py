"""Trains a reward model with a margin by grade (Llama 2, section 3.2.2) or on ranked answers (Llama 3, section 4.1.2).

accelerate launch recipes/reward.py --config recipes/herd-nano/reward_helpfulness.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from transformers import set_seed

from llama_align.data import GRADES, OBJECTIVES, load_records, pair_tokens, ranking_rows
from llama_align.recipe.batches import check_newest, check_parts, part_of, scored_before
from llama_align.report import reward_pictures
from llama_align.rewards import RewardScorer
from llama_align.runtime.sharding import root_gathered
from llama_align.trainers import HerdRewardConfig, HerdRewardTrainer, margin_table, pair_metrics, score_pairs
from llama_align.trainers.heldout import before_and_after, no_better_than_length


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
    newest: list[dict] = field(
        default_factory=list, metadata={"help": "held-out preferences of the newest batch, measured by themselves"}
    )
    before: str | None = field(
        default=None, metadata={"help": "reward model of the round before, measured on newest beside the new one"}
    )
    objective: str = field(default="helpfulness", metadata={"help": "helpfulness, safety, or all: the pairs used"})
    grades: list[str] = field(
        default_factory=lambda: list(GRADES),
        metadata={"help": "grades trained on; Llama 3 takes the two strongest. All are held out"},
    )
    listwise: bool = field(default=False, metadata={"help": "all answers of a prompt in one row (Llama 3)"})
    context: int = field(default=256, metadata={"help": "tokens of prompt and answer at most"})
    too_long: str = field(default="error", metadata={"help": "pairs longer than the context: error or drop"})


def build(args: RewardArguments, training: HerdRewardConfig, model_args: recipe.ModelArguments) -> recipe.Training:
    if args.objective not in (*OBJECTIVES, "all") or not set(args.grades) <= set(GRADES):
        raise recipe.RecipeError(
            f"objective, grades: found {args.objective!r} and {args.grades}, expected one of "
            f"{', '.join(OBJECTIVES)}, all; and some of {', '.join(GRADES)}"
        )
    check_parts(args)
    check_newest(args)
    # the score head starts from random weights
    set_seed(training.seed)
    start = recipe.Start.of(model_args, training, "reward")
    tokenizer = start.tokenizer()
    start.check_length(args.context, "context")
    margins = margin_table(training.margin)

    def rows_of(sources, grades):
        def is_wanted(record):
            return args.objective in (record.objective, "all")

        def is_kept(record):
            return is_wanted(record) and record.grade in grades and not record.prefers_unsafe

        size = pair_tokens(tokenizer, args.context, args.too_long, is_kept)
        records, report = load_records(sources, "preference", training.seed, size, "tokens")
        recipe.say(report)
        wanted = [r for r in records if is_wanted(r)]
        graded = [r for r in wanted if r.grade in grades]
        kept = [r for r in graded if is_kept(r)]
        earlier = {
            f"of another objective than {args.objective} (objective)": len(records) - len(wanted),
            f"of other grades than {', '.join(grades)} (grades)": len(wanted) - len(graded),
            "with the unsafe answer chosen": len(graded) - len(kept),
        }
        options = args.too_long, args.listwise, training.seed
        rows, left_out = ranking_rows(kept, tokenizer, args.context, margins, *options, earlier=earlier)
        counts = {
            "pairs": sum(map(len, rows["grade"])),
            "rows": len(rows),
            "unsafe_chosen": len(graded) - len(kept),
            "other_grades": len(wanted) - len(graded),
            "too_long": left_out.rows,
            "too_long_answers": left_out.answers,
            "equal_answers": left_out.equal,
        }
        counts |= report.metrics
        long = f"rows and {left_out.answers} answers of other rows {left_out.rows.reason('context')}"
        reasons = earlier | {"of equal answers": left_out.equal, long: left_out.rows}
        said = ", ".join(f"{count} {why}" for why, count in reasons.items())
        recipe.say(f"{counts['pairs']} {args.objective} pairs in {len(rows)} rows; left out: {said}")
        return rows, counts

    train, counts = rows_of([part_of(source, args.part) for source in args.datasets], args.grades)
    pairs = rows_of(args.newest, GRADES)[0] if args.newest else None
    outputs = {"num_labels": 2} if training.safety_coefficient else {}
    trainer = HerdRewardTrainer(
        model=start.model("reward", tokenizer, **outputs),
        args=training,
        train_dataset=train,
        processing_class=tokenizer,
        peft_config=start.lora(reward=True),
    )
    heldout_sources = [*args.eval_datasets]
    if args.eval_part:
        heldout_sources += [part_of(source, args.eval_part) for source in args.datasets]

    def measure():
        scorer = RewardScorer(trainer.accelerator.unwrap_model(trainer.model), tokenizer.pad_token_id)
        newest = {}
        if pairs is not None:
            with root_gathered(trainer.model):
                after = score_pairs(scorer, pairs)
            newest = {"newest": before_and_after(scored_before(args.before, tokenizer, pairs), after)}
        if not heldout_sources:
            return newest, {}
        heldout, counted = rows_of(heldout_sources, GRADES)
        with root_gathered(trainer.model):
            scored = score_pairs(scorer, heldout)
        measured = {"heldout": counted} | pair_metrics(scored) | newest
        if warning := no_better_than_length(measured):
            recipe.say(warning)
        pictures = reward_pictures(scored.chosen, scored.rejected, known | measured)
        if training.safety_coefficient:
            found = trainer.evaluate(heldout)
            measured["safety_head"] = {"accuracy": found.get("eval_safety_head/accuracy")}
        return measured, pictures

    known = {"objective": args.objective, "margin": training.margin, **counts}
    return recipe.Training(trainer, known, {"preference": args.datasets}, {".": start.saved_dtype}, measure)


def main(args: RewardArguments, training: HerdRewardConfig, model_args: recipe.ModelArguments) -> None:
    build(args, training, model_args).run()


if __name__ == "__main__":
    recipe.run(main, RewardArguments, HerdRewardConfig, recipe.ModelArguments, doc=__doc__)
