"""Supervised fine-tuning, loss on answers only, dialogs packed (Llama 2, section 3.1; Llama 3, section 4.1.3).

accelerate launch recipes/sft.py --config recipes/herd-nano/sft.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from transformers import set_seed

from llama_align.data import demonstration_rows, dialog_tokens, load_records
from llama_align.trainers import HerdSFTConfig, HerdSFTTrainer


@dataclass
class SFTArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of demonstrations"})
    packing_rows: str = field(
        default="bfd", metadata={"help": "bfd (dialogs kept whole) or concat (Llama 2: end to end)"}
    )
    too_long: str = field(default="error", metadata={"help": "dialogs longer than max_length: error or drop"})


def build(args: SFTArguments, training: HerdSFTConfig, model_args: recipe.ModelArguments) -> recipe.Training:
    # an adapter starts from random weights
    set_seed(training.seed)
    start = recipe.Start.of(model_args, training)
    tokenizer = start.tokenizer()
    start.check_length(training.max_length, "max_length")
    size = dialog_tokens(tokenizer, training.max_length, args.too_long)
    demonstrations, report = load_records(args.datasets, "demonstration", training.seed, size, "tokens")
    recipe.say(report)
    rows, dropped = demonstration_rows(demonstrations, tokenizer, training.max_length, args.packing_rows, args.too_long)
    recipe.say(
        f"{len(demonstrations) - dropped} dialogs in {len(rows)} rows, {dropped} left out as "
        + dropped.reason("max_length")
    )

    trainer = HerdSFTTrainer(
        model=start.model(tokenizer=tokenizer),
        args=training,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=start.lora(),
    )
    metrics = {"dialogs": len(demonstrations) - dropped, "rows": len(rows), "too_long": dropped}
    metrics |= report.metrics
    return recipe.Training(trainer, metrics, {"demonstration": args.datasets}, {".": start.saved_dtype})


def main(args: SFTArguments, training: HerdSFTConfig, model_args: recipe.ModelArguments) -> None:
    build(args, training, model_args).run()


if __name__ == "__main__":
    recipe.run(main, SFTArguments, HerdSFTConfig, recipe.ModelArguments, doc=__doc__)
