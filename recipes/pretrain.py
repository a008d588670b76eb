"""Pretrains LlamaHerd on packed documents (Llama 2, section 2).

accelerate launch recipes/pretrain.py --config recipes/herd-nano/pretrain.yaml
"""

from dataclasses import dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from transformers import AutoModelForCausalLM, set_seed

from llama_align.data import Infilling, tokens_of
from llama_align.models import parameter_count, preset
from llama_align.pretraining import SourceRows, StepRows, described, open_sources
from llama_align.recipe.unused import default_of
from llama_align.report.gates import needle_pictures
from llama_align.trainers import AVERAGE, PretrainConfig, PretrainTrainer


@dataclass
class PretrainArguments:
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of documents, or of their tokens"})
    eval_datasets: list[dict] = field(default_factory=list, metadata={"help": "held-out documents for the eval loss"})
    tokens_dir: str | None = field(
        default=None, metadata={"help": "folder where documents are kept as tokens (default: tokens/ in output_dir)"}
    )
    workers: int = field(default=1, metadata={"help": "processes that encode documents not tokenised yet"})
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
    infilling: float = field(
        default=0.0,
        metadata={"help": "share of training documents whose middle is moved to their end (Code Llama: 0.9)"},
    )
    infilling_suffix_first: float = field(
        default=0.5, metadata={"help": "share of these whose suffix comes first (Code Llama: half)"}
    )
    stages: list[dict] | None = field(
        default=None,
        metadata={"help": "tokens, mixture, context, batch, ... of each part of the run, see docs/pretraining.md"},
    )
    root_of_batch: bool = field(
        default=False, metadata={"help": "the learning rate of a stage grows with the root of its batch"}
    )

    def __post_init__(self):
        if not self.infilling and self.infilling_suffix_first != default_of(type(self), "infilling_suffix_first"):
            found = f"found {self.infilling_suffix_first} without infilling, expected infilling above 0"
            raise ValueError(f"infilling_suffix_first: {found}")


def anew(args: PretrainArguments, tokenizer, overrides: dict):
    """A model of random weights."""
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
    return AutoModelForCausalLM.from_config(config)


def build(args: PretrainArguments, training: PretrainConfig, model_args: recipe.ModelArguments) -> recipe.Training:
    # an adapter starts from random weights, as does a model made anew
    set_seed(training.seed)
    start = recipe.start_of(args, training, model_args)
    overrides = args.size_overrides or {}
    recipe.check_overrides(overrides, "size_overrides")
    named = args.tokenizer or not start
    tokenizer = recipe.load_tokenizer(args.tokenizer, dialogs=False) if named else start.tokenizer(dialogs=False)
    where = args.tokens_dir or f"{training.output_dir}/tokens"
    infilling = Infilling(args.infilling, args.infilling_suffix_first, training.seed, args.context)
    sources = open_sources(args.datasets, tokenizer, where, args.workers, infilling)
    recipe.say(described(sources))
    heldout, held, pad = None, [], tokens_of(tokenizer).pad
    if args.eval_datasets:
        held = open_sources(args.eval_datasets, tokenizer, where, args.workers)
        heldout = SourceRows(held, args.context, args.packing, pad, len(tokenizer), apart=True)
        heldout.check()  # or a wrong id would be found behind the last step

    model = recipe.continued(start, tokenizer, overrides) if start else anew(args, tokenizer, overrides)
    plan, followed = recipe.staged(args, training, sources, getattr(model.config, "rope_parameters", {}))
    if start and (start.adapter or start.options.use_peft):
        recipe.refuse_turning(args.stages or [])
    if plan:
        train = StepRows(plan, training.world_size, len(tokenizer))
        followed |= recipe.gated(plan, held, tokenizer, training.output_dir)
    else:
        train = SourceRows(sources, args.context, args.packing, pad, len(tokenizer))
    longest = max([args.context, *(stage.context for stage in (plan.stages if plan else ()))])
    if longest > model.config.max_position_embeddings:
        raise recipe.RecipeError(
            f"context: found {longest}, expected at most {model.config.max_position_embeddings}, "
            "max_position_embeddings, which size_overrides may raise"
        )
    recipe.say(f"{parameter_count(model.config):,} parameters")
    recipe.say(plan or f"{len(train) * args.context:,} tokens an epoch")

    trainer = PretrainTrainer(
        model=model,
        args=training,
        train_dataset=train,
        eval_dataset=heldout,
        processing_class=tokenizer,
        plan=plan,
        **followed,
    )

    def measure():
        metrics = recipe.heldout_numbers(trainer.evaluate()) if heldout else {}
        if trainer.average:
            with trainer.averaged():
                metrics |= {AVERAGE: recipe.heldout_numbers(trainer.evaluate())} if heldout else {}
            trainer.save_average()
        if plan:
            metrics["sources"] = plan.epochs(trainer.state.global_step)
        if trainer.gates:
            metrics["gates"] = trainer.gates.summary()
        return metrics, needle_pictures(metrics.get("gates", {}))

    dtype = start and start.saved_dtype
    return recipe.Training(trainer, {}, {"document": args.datasets}, {".": dtype, AVERAGE: dtype}, measure)


def main(args: PretrainArguments, training: PretrainConfig, model_args: recipe.ModelArguments) -> None:
    build(args, training, model_args).run()


if __name__ == "__main__":
    recipe.run(main, PretrainArguments, PretrainConfig, recipe.ModelArguments, doc=__doc__)
