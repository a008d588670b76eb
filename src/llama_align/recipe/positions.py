"""Context and rotary frequencies that differ from a preset's or a checkpoint's; the weights are the same for any.

Llama 3 raises them in stages when its context grows (section 3.4.2), Code Llama by the base of the frequencies alone.
"""

from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from .errors import RecipeError

ROPE = ("rope_theta", "rope_scaling")  # as transformers 4 and published checkpoints name them, rope_parameters in 5
POSITIONS = ("max_position_embeddings", *ROPE, "rope_parameters")


def check_positions(fields: dict[str, Any], option: str) -> None:
    """Raises RecipeError for a field that a checkpoint's weights have fixed."""
    for name, value in fields.items():
        if name not in POSITIONS:
            raise RecipeError(
                f"{option}, field {name!r}: found {value!r} with model_name_or_path, expected only "
                f"{', '.join(POSITIONS)}; all else is as the checkpoint's weights are"
            )


def with_rope(fields: dict[str, Any], parameters: dict[str, Any], option: str) -> dict[str, Any]:
    """The fields with `rope_theta` and `rope_scaling` written into `rope_parameters`, as LlamaHerd reads them.

    Args:
        parameters: those of the preset or the checkpoint; a new scaling keeps the base, a new base the scaling.

    Raises:
        RecipeError: both ways of naming them, or a scaling of no known type.
    """
    given = [name for name in ROPE if name in fields]
    if not given:
        return fields
    if "rope_parameters" in fields:
        raise RecipeError(f"{option}, field {given[0]!r}: found it beside rope_parameters, expected one of the two")
    rope = dict(parameters)
    if "rope_scaling" in fields:
        scaling = dict(fields["rope_scaling"] or {"rope_type": "default"})
        scaling["rope_type"] = kind = scaling.pop("type", scaling.get("rope_type"))
        if kind not in (known := ["default", *sorted(ROPE_INIT_FUNCTIONS)]):
            found = f"found the type {kind!r}, expected one of {', '.join(known)}"
            raise RecipeError(f"{option}, field 'rope_scaling': {found}")
        rope = {"rope_theta": rope["rope_theta"]} | scaling
    if "rope_theta" in fields:
        rope["rope_theta"] = fields["rope_theta"]
    return {name: value for name, value in fields.items() if name not in ROPE} | {"rope_parameters": rope}
