"""DPO with masked format tokens and NLL regularisation (Llama 3, section 4.1.4).

accelerate launch recipes/dpo.py --config recipes/herd-nano/dpo.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from transformers import set_seed

from llama_align.data import GRADES, load_records, pair_tokens, preference_rows
from llama_align.trainers import HerdDPOConfig, HerdDPOTrainer

LAST = ("rewards/margins", "rewards/accuracies", "rewards/chosen", "loss/nll")  # of the log, into metrics.json


@dataclass
class DPOArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of preferences"})
    reference: str | None = field(
        default=None,
        metadata={"help": "reference policy, such as that of an earlier round (default: the one trained on)"},
    )
    grades: list[str] = field(
        default_factory=lambda: list(GRADES[:2]),
        metadata={"help": "grades of the pairs used; Llama 3 takes the two strongest"},
    )
    too_long: str = field(default="error", metadata={"help": "pairs longer than max_length: error, drop or cut"})


def build(args: DPOArguments, training: HerdDPOConfig, model_args: recipe.ModelArguments) -> recipe.Training:
    # an adapter starts from random weights
    set_seed(training.seed)
    if args.reference:
        recipe.check_checkpoint(args.reference, "causal")
    start = recipe.Start.of(model_args, training)
    tokenizer = start.tokenizer()
    start.check_length(training.max_length, "max_length")

    def wanted(record):
        # the NLL imitates the chosen answer, so it must be safe itself, not only safer
        return record.grade in args.grades and record.chosen_is_safe is not False

    size = pair_tokens(tokenizer, training.max_length, args.too_long, wanted)
    records, report = load_records(args.datasets, "preference", training.seed, size, "tokens")
    recipe.say(report)
    graded = [record for record in records if record.grade in args.grades]
    chosen = [record for record in graded if wanted(record)]
    earlier = {
        f"of other grades than {', '.join(args.grades)} (grades)": len(records) - len(graded),
        "with an unsafe chosen answer, which DPO would imitate": len(graded) - len(chosen),
    }
    pairs, left_out = preference_rows(chosen, tokenizer, training.max_length, too_long=args.too_long, earlier=earlier)
    counts = {"pairs": len(pairs), "too_long": left_out.too_long, "unsafe_chosen": len(graded) - len(chosen)}
    counts |= {"equal_answers": left_out.equal} | report.metrics
    reasons = earlier | {"of equal answers": left_out.equal, left_out.too_long.reason("max_length"): left_out.too_long}
    recipe.say(
        f"{len(pairs)} pairs of {len(records)}; left out: " + ", ".join(f"{n} {why}" for why, n in reasons.items())
    )

    training.model_init_kwargs = start.reference_options
    trainer = HerdDPOTrainer(
        start.model(tokenizer=tokenizer),
        ref_model=start.beside(args.reference, tokenizer=tokenizer) if args.reference else None,
        args=training,
        train_dataset=pairs,
        processing_class=tokenizer,
        peft_config=start.lora(),
    )
    dtypes = {".": start.saved_dtype}

    def measured() -> tuple[dict, dict]:
        return {"alarms": trainer.alarms} | trainer.last_logged(LAST), {}

    return recipe.Training(trainer, counts, {"preference": args.datasets}, dtypes, measured)


def main(args: DPOArguments, training: HerdDPOConfig, model_args: recipe.ModelArguments) -> None:
    build(args, training, model_args).run()


if __name__ == "__main__":
    recipe.run(main, DPOArguments, HerdDPOConfig, recipe.ModelArguments, doc=__doc__)
