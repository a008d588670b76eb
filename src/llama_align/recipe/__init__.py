"""What every recipe script shares, as `recipe.parse`, `recipe.load_model`, `recipe.finish` and so on.

Options, checkpoints, engines and what a run leaves behind. Knows nothing of losses.
"""

from typing import TYPE_CHECKING

from ..runtime.on_demand import on_demand

if TYPE_CHECKING:  # imported when they are asked for: most take torch
    from ..runtime.files import write_json
    from ..runtime.output import say
    from .adapters import adapter_of
    from .checkpoints import (
        check_length,
        check_match,
        check_reward_model,
        context_of,
        load_model,
        load_prompts,
        load_reward_model,
        load_tokenizer,
        on_device,
        score_outputs,
    )
    from .engines import EngineSettings, Samplers, check_dtype
    from .errors import (
        GATE_SHUT,
        STOPPED_EARLY,
        TRACEBACK,
        WAITS,
        WAITS_FOR_PEOPLE,
        GateShut,
        RecipeError,
        StoppedEarly,
        WaitsForPeople,
    )
    from .further import continued, refuse_turning, start_of
    from .options import exit_code, leave_group, one_process, parse, run
    from .positions import check_positions, with_rope
    from .reading import check_first, check_options
    from .results import finish, write_made
    from .resuming import STOPPED, checkpoints_of, incomplete, resume_path, train
    from .staging import gated, heldout_numbers, staged
    from .start import ModelArguments, Start, lora_config, whole_weights
    from .training import Training
    from .whole import check_checkpoint, check_overrides

__all__ = [
    "GATE_SHUT",
    "STOPPED",
    "STOPPED_EARLY",
    "TRACEBACK",
    "WAITS",
    "WAITS_FOR_PEOPLE",
    "EngineSettings",
    "GateShut",
    "ModelArguments",
    "RecipeError",
    "Samplers",
    "Start",
    "StoppedEarly",
    "Training",
    "WaitsForPeople",
    "adapter_of",
    "check_checkpoint",
    "check_dtype",
    "check_first",
    "check_length",
    "check_match",
    "check_options",
    "check_overrides",
    "check_positions",
    "check_reward_model",
    "checkpoints_of",
    "context_of",
    "continued",
    "exit_code",
    "finish",
    "gated",
    "heldout_numbers",
    "incomplete",
    "leave_group",
    "load_model",
    "load_prompts",
    "load_reward_model",
    "load_tokenizer",
    "lora_config",
    "on_device",
    "one_process",
    "parse",
    "refuse_turning",
    "resume_path",
    "run",
    "say",
    "score_outputs",
    "staged",
    "start_of",
    "train",
    "whole_weights",
    "with_rope",
    "write_json",
    "write_made",
]

__getattr__ = on_demand(__name__, __file__)
