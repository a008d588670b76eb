"""Where pretraining starts: from a checkpoint that is trained further, or from none."""

from typing import Any

from transformers import AutoConfig, TrainingArguments

from .errors import RecipeError
from .positions import check_positions, with_rope
from .start import ModelArguments, Start
from .unused import default_of


def start_of(args: Any, training: TrainingArguments, model_args: ModelArguments) -> Start | None:
    """The checkpoint to continue from, if any. Raises RecipeError for options of the other way to begin."""
    anew = not model_args.model_name_or_path
    options, names = (model_args, vars(model_args)) if anew else (args, ("size",))
    for name in names:
        if (found := getattr(options, name)) != default_of(type(options), name):
            beside = "without" if anew else "with"
            raise RecipeError(f"{name}: found {found!r} {beside} model_name_or_path, expected none")
    if model_args.add_control_tokens and args.tokenizer:
        raise RecipeError(f"tokenizer: found {args.tokenizer!r} with add_control_tokens, expected none")
    return None if anew else Start.of(model_args, training)


def continued(start: Start, tokenizer, overrides: dict):
    """The model to be trained further, with the context and rotary frequencies that are asked for."""
    if overrides:
        check_positions(overrides, "size_overrides")
        if start.adapter or start.options.use_peft:
            raise RecipeError(
                f"size_overrides: found {overrides} for an adapter, expected none; it is saved without them"
            )
        where = {"revision": start.revision, "trust_remote_code": start.trust_remote_code}
        parameters = getattr(AutoConfig.from_pretrained(start.path, **where), "rope_parameters", {})
        overrides = with_rope(overrides, parameters, "size_overrides")
    return start.adapted(start.model(tokenizer=tokenizer, **overrides))


def refuse_turning(stages: list[dict]) -> None:
    """Raises RecipeError for rotary frequencies that an adapter would be saved without."""
    for number, stage in enumerate(stages):
        for key in ("rope_theta", "rope_scaling"):
            if found := stage.get(key):
                raise RecipeError(
                    f"stages[{number}], key {key!r}: found {found} for an adapter, expected none; it is saved without"
                )
