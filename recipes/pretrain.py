"""Pretrains LlamaHerd on packed documents (Llama 2, section 2).

accelerate launch recipes/pretrain.py --config recipes/herd-nano/pretrain.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from llama_align.data import document_rows, load_records
from llama_align.models import parameter_count, preset
from llama_align.recipe.unused import default_of
from llama_align.trainers import PretrainConfig, PretrainTrainer


@dataclass
class PretrainArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of documents"})
    eval_datasets: list[dict] = field(default_factory=list, metadata={"help": "held-out documents for the eval loss"})
    tokenizer: str = field(
        default="", metadata={"help": "tokenizer to use, a path or Hub name (default: that of model_name_or_path)"}
    )
    size: str | None = field(
        default=None, metadata={"help": "a preset of llama_align.models: llama-2-7b, ... (default: herd-nano)"}
    )
    size_overrides: dict | None = field(
        default=None,
        metadata={
            "help": "configuration fields that differ from the preset; from those of model_name_or_path only "
            "max_position_embeddings, rope_theta, rope_scaling and rope_parameters can"
        },
    )
    context: int = field(default=256, metadata={"help": "tokens per row"})
    packing: str = field(default="concat", metadata={"help": "concat (rows filled to the last token) or bfd"})


def start_of(
    args: PretrainArguments, training: PretrainConfig, model_args: recipe.ModelArguments
) -> recipe.Start | None:
    """The checkpoint to continue from, if any. Raises RecipeError for options of the other way to begin."""
    anew = not model_args.model_name_or_path
    options, names = (model_args, vars(model_args)) if anew else (args, ("size",))
    for name in names:
        if (found := getattr(options, name)) != default_of(type(options), name):
            beside = "without" if anew else "with"
            raise recipe.RecipeError(f"{name}: found {found!r} {beside} model_name_or_path, expected none")
    if model_args.add_control_tokens and args.tokenizer:
        raise recipe.RecipeError(f"tokenizer: found {args.tokenizer!r} with add_control_tokens, expected none")
    return None if anew else recipe.Start.of(model_args, training)


def continued(start: recipe.Start, tokenizer, overrides: dict):
    """The model to be trained further, with the context and rotary frequencies that are asked for."""
    if overrides:
        recipe.check_positions(overrides, "size_overrides")
        if start.adapter or start.options.use_peft:
            raise recipe.RecipeError(
                f"size_overrides: found {overrides} for an adapter, expected none; it is saved without them"
            )
        where = {"revision": start.revision, "trust_remote_code": start.trust_remote_code}
        parameters = getattr(AutoConfig.from_pretrained(start.path, **where), "rope_parameters", {})
        overrides = recipe.with_rope(overrides, parameters, "size_overrides")
    return start.adapted(start.model(tokenizer=tokenizer, **overrides))


def main(args: PretrainArguments, training: PretrainConfig, model_args: recipe.ModelArguments) -> None:
    # an adapter starts from random weights, as does a model made anew
    set_seed(training.seed)
    start = start_of(args, training, model_args)
    overrides = args.size_overrides or {}
    recipe.check_overrides(overrides, "size_overrides")
    named = args.tokenizer or not start
    tokenizer = recipe.load_tokenizer(args.tokenizer, dialogs=False) if named else start.tokenizer(dialogs=False)
    documents, report = load_records(args.datasets, "document", seed=training.seed)
    print(report)
    train = document_rows(documents, tokenizer, args.context, args.packing)
    heldout = None
    if args.eval_datasets:
        heldout = document_rows(load_records(args.eval_datasets, "document")[0], tokenizer, args.context, args.packing)

    if start:
        model = continued(start, tokenizer, overrides)
    else:
        size = args.size or "herd-nano"
        config = preset(
            size,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **recipe.with_rope(overrides, preset(size).rope_parameters, "size_overrides"),
        )
        # from_config and not the class itself: under ZeRO-3 no process ever holds the whole model
        model = AutoModelForCausalLM.from_config(config)
    if args.context > model.config.max_position_embeddings:
        raise recipe.RecipeError(
            f"context: found {args.context}, expected at most {model.config.max_position_embeddings}, "
            "max_position_embeddings, which size_overrides may raise"
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
