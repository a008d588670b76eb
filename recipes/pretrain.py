"""Pretrains LlamaHerd on packed documents (Llama 2, section 2).

accelerate launch recipes/pretrain.py --config recipes/herd-nano/pretrain.yaml
"""

from dataclasses import dataclass, field

from transformers import AutoModelForCausalLM, set_seed

from llama_align import recipe
from llama_align.data import document_rows, load_records
from llama_align.models import parameter_count, preset
from llama_align.trainers import PretrainConfig, PretrainTrainer


@dataclass
class PretrainArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of documents"})
    eval_datasets: list[dict] = field(default_factory=list, metadata={"help": "held-out documents for the eval loss"})
    tokenizer: str = field(default="", metadata={"help": "tokenizer to use, a path or Hub name"})
    size: str = field(
        default="herd-nano", metadata={"help": "a preset of llama_align.models: herd-nano, llama-2-7b, ..."}
    )
    size_overrides: dict | None = field(
        default=None, metadata={"help": "configuration fields that differ from the preset"}
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "continue from this checkpoint instead"})
    context: int = field(default=256, metadata={"help": "tokens per row"})
    packing: str = field(default="concat", metadata={"help": "concat (rows filled to the last token) or bfd"})


def main(args: PretrainArguments, training: PretrainConfig) -> None:
    set_seed(training.seed)
    tokenizer = recipe.load_tokenizer(args.tokenizer)
    documents, report = load_records(args.datasets, "document", seed=training.seed)
    print(report)
    train = document_rows(documents, tokenizer, args.context, args.packing)
    heldout = None
    if args.eval_datasets:
        heldout = document_rows(load_records(args.eval_datasets, "document")[0], tokenizer, args.context, args.packing)

    if args.model_name_or_path:
        model = recipe.load_model(args.model_name_or_path, tokenizer=tokenizer)
    else:
        config = preset(
            args.size,
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
    trainer.train(resume_from_checkpoint=recipe.resume_path(training.resume_from_checkpoint, training.output_dir))
    metrics = trainer.evaluate() if heldout else {}
    recipe.finish(trainer, {"eval_loss": metrics["eval_loss"]} if metrics else None, {"document": args.datasets})


if __name__ == "__main__":
    recipe.run(main, PretrainArguments, PretrainConfig, doc=__doc__)
