"""What every recipe script shares, as `recipe.parse`, `recipe.load_model`, `recipe.finish` and so on.

Options, checkpoints, engines and what a run leaves behind. Knows nothing of losses.
"""

from ..runtime.files import write_json
from .checkpoints import (
    check_length,
    check_match,
    check_reward_model,
    check_weights,
    context_of,
    load_model,
    load_prompts,
    load_reward_model,
    load_tokenizer,
    lora_config,
    model_kwargs,
    on_device,
    resume_path,
    score_outputs,
)
from .engines import EngineSettings, Samplers, check_dtype
from .errors import TRACEBACK, RecipeError
from .options import leave_group, one_process, parse, run
from .results import finish

__all__ = [
    "TRACEBACK",
    "EngineSettings",
    "RecipeError",
    "Samplers",
    "check_dtype",
    "check_length",
    "check_match",
    "check_reward_model",
    "check_weights",
    "context_of",
    "finish",
    "leave_group",
    "load_model",
    "load_prompts",
    "load_reward_model",
    "load_tokenizer",
    "lora_config",
    "model_kwargs",
    "on_device",
    "one_process",
    "parse",
    "resume_path",
    "run",
    "score_outputs",
    "write_json",
]
