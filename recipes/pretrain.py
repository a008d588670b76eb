"""Pretrains LlamaHerd on packed documents (Llama 2, section 2).

accelerate launch recipes/pretrain.py --config recipes/herd-nano/pretrain.yaml
"""

from dataclasses import dataclass, field

from transformers import AutoModelForCausalLM, set_seed

from llama_align import recipe
from llama_align.data import document_rows, load_records
from llama_align.models import parameter_count, preset
from llama_align.recipe.unused import default_of
from llama_align.trainers import PretrainConfig, PretrainTrainer


@dataclass
class PretrainArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of documents"})
    eval_datasets: list[dict] = field(default_factory=list, metadata={"help": "held-out documents for the eval loss"})
    tokenizer: str = field(default="", metadata={"help": "tokenizer to use, a path or Hub name"})
    size: str | None = field(
        default=None, metadata={"help": "a preset of llama_align.models: llama-2-7b, ... (default: herd-nano)"}
    )
    size_overrides: dict | None = field(
        default=None, metadata={"help": "configuration fields that differ from the preset"}
    )
    context: int = field(default=256, metadata={"help": "tokens per row"})
    packing: str = field(default="concat", metadata={"help": "concat (rows filled to the last token) or bfd"})


def start_of(
    args: PretrainArguments, training: PretrainConfig, model_args: recipe.ModelArguments
) -> recipe.Start | None:
    """The checkpoint to continue from, if any. Raises RecipeError for options of the other way to begin."""
    anew = not model_args.model_name_or_path
    options, names = (model_args, vars(model_args)) if anew else (args, ("size", "size_overrides"))
    for name in names:
        if (found := getattr(options, name)) != default_of(type(options), name):
            beside = "without" if anew else "with"
            raise recipe.RecipeError(f"{name}: found {found!r} {beside} model_name_or_path, expected none")
    return None if anew else recipe.Start.of(model_args, training)


def main(args: PretrainArguments, training: PretrainConfig, model_args: recipe.ModelArguments) -> None:
    # an adapter starts from random weights, as does a model made anew
    set_seed(training.seed)
    start = start_of(args, training, model_args)
    recipe.check_overrides(args.size_overrides or {}, "size_overrides")
    tokenizer = recipe.load_tokenizer(args.tokenizer)
    documents, report = load_records(args.datasets, "document", seed=training.seed)
    print(report)
    train = document_rows(documents, tokenizer, args.context, args.packing)
    heldout = None
    if args.eval_datasets:
        heldout = document_rows(load_records(args.eval_datasets, "document")[0], tokenizer, args.context, args.packing)

    if start:
        model = start.adapted(start.model(tokenizer=tokenizer))
    else:
        config = preset(
            args.size or "herd-nano",
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **(args.size_overrides or {}),
        )
        # from_config and not the class itself: under ZeRO-3 no process ever holds the whole model
        model = AutoModelForCausalLM.from_config(config)
    if args.context > model.config.max_position_embeddings:
        raise recipe.RecipeError(
            f"context: found {args.context}, expected at most {model.config.max_position_embeddings}"
        )
    print(f"{parameter_count(model.config):,} parameters, {len(train) * args.context:,} tokens an epoch")

    trainer = PretrainTrainer(
        model=model, args=training, train_dataset=train, eval_dataset=heldout, processing_class=tokenizer
    )
    recipe.train(trainer)
    metrics = trainer.evaluate() if heldout else {}
    metrics = {"eval_loss": metrics["eval_loss"]} if metrics else None
    recipe.finish(trainer, metrics, {"document": args.datasets}, dtypes={".": start and start.saved_dtype})


if __name__ == "__main__":
    recipe.run(main, PretrainArguments, PretrainConfig, recipe.ModelArguments, doc=__doc__)
