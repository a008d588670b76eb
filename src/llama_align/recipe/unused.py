"""Options of transformers and TRL that a recipe leaves without effect; set to anything else, they are refused.

All other fields of `TrainingArguments` are read by transformers' Trainer, all others of TRL's configurations by TRL's
trainers or ours, which also refuse some by themselves (`trainers.base.refuse_unused`). Options that follow a switch,
such as `hub_model_id` that of `push_to_hub`, are left to transformers.
"""

from collections.abc import Iterable
from dataclasses import MISSING

from ..trainers import HerdDPOConfig, HerdRewardConfig, HerdSFTConfig, PPOConfig, PretrainConfig
from .errors import RecipeError
from .yaml_files import shortened

NO_METRICS = (  # of held-out predictions, of which recipes ask for the loss alone
    *("prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps"),
    *("include_for_metrics", "batch_eval_metrics", "label_names"),
)
NO_EVALUATION = (
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "load_best_model_at_end"),
    *("metric_for_best_model", "greater_is_better"),
)
FULL_EVALUATION = ("bf16_full_eval", "fp16_full_eval")
REASONS = {
    "for scripts that read it; these recipes train": ("do_train", "do_eval", "do_predict", "local_rank"),
    "llama_align has kernels of its own": ("use_liger_kernel", "liger_kernel_config"),
    "recipes ask for no metrics of predictions": NO_METRICS,
    "trackers log on this machine": ("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    "a model is published once, when it is finished": ("hub_always_push",),
}
NOT_TRL = {"the model is loaded by the recipe, from model_name_or_path": ("model_init_kwargs",)}
NO_SMOOTHING = {"the loss is not cross entropy over labels": ("label_smoothing_factor",)}
EQUAL_ROWS = {"the loss is a mean over rows, on however many devices": ("average_tokens_across_devices",)}
NO_EVALUATION_DURING = {"nothing is held out during training": NO_EVALUATION}
NO_EVALUATION_AT_ALL = {
    "nothing is held out": (*NO_EVALUATION, *FULL_EVALUATION, "per_device_eval_batch_size"),
}
UNUSED: dict[type, dict[str, tuple[str, ...]]] = {
    PretrainConfig: REASONS | {"the loss is next-token cross entropy as it is": ("label_smoothing_factor",)},
    HerdSFTConfig: REASONS
    | NOT_TRL
    | NO_EVALUATION_AT_ALL
    | {"rows come rendered and labelled": ("dataset_kwargs",), "no model here has experts": ("router_aux_loss_coef",)},
    HerdRewardConfig: REASONS | NOT_TRL | NO_SMOOTHING | EQUAL_ROWS | NO_EVALUATION_DURING,
    HerdDPOConfig: REASONS
    | NOT_TRL
    | NO_SMOOTHING
    | EQUAL_ROWS
    | NO_EVALUATION_AT_ALL
    | {"no model here has experts": ("router_aux_loss_coef",)},
    PPOConfig: REASONS
    | NOT_TRL
    | NO_SMOOTHING
    | EQUAL_ROWS
    | NO_EVALUATION_AT_ALL
    | {
        "nothing is held out, nor sampled for it": ("num_generations_eval",),
        "PPO has no dropout anywhere": ("disable_dropout",),
        "prompts are drawn by seed, each as often as the others": (
            *("data_seed", "train_sampling_strategy", "length_column_name"),
        ),
        "noise would make two policies of one": ("neftune_noise_alpha",),
    },
}


def refuse_unused(stages: Iterable[object], given: set[str]) -> None:
    """Raises RecipeError for an option that was given, not at its default, and that the recipe leaves without effect.

    Args:
        stages: dataclasses as parsed. given: names in the YAML and on the command line.
    """
    for stage in stages:
        for reason, names in UNUSED.get(type(stage), {}).items():
            for name in names:
                if name in given and (found := getattr(stage, name)) != (default := default_of(type(stage), name)):
                    found = shortened(repr(getattr(found, "value", found)), 300)  # of an enumeration
                    default = getattr(default, "value", default)
                    raise RecipeError(
                        f"{name}: found {found}, expected it left at {default!r}; it has no effect: {reason}"
                    )
        if getattr(stage, "lr_scheduler_type", None) == "constant" and "warmup_steps" in given and stage.warmup_steps:
            found = f"found {stage.warmup_steps} with lr_scheduler_type constant, which has no warm-up"
            raise RecipeError(f"warmup_steps: {found}, expected 0, or constant_with_warmup")
        if isinstance(stage, PPOConfig) and not stage.use_vllm:
            for name in (name for name in type(stage).__dataclass_fields__ if name.startswith("vllm_")):
                if (found := getattr(stage, name)) != default_of(type(stage), name):
                    raise RecipeError(f"{name}: found {found!r} without use_vllm, expected use_vllm: true")


def default_of(kind: type, name: str):
    """The default of a dataclass's field."""
    own = kind.__dataclass_fields__[name]
    return own.default if own.default_factory is MISSING else own.default_factory()
