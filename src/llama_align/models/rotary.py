"""Rotary frequencies by the names of transformers 4, which transformers 5 passes over where it has its own."""

from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ROPE = ("rope_theta", "rope_scaling")  # as transformers 4 and published checkpoints name them, rope_parameters in 5


def with_rope(fields: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    """The fields with `rope_theta` and `rope_scaling` written into `rope_parameters`, as LlamaHerd reads them.

    Args:
        parameters: those of the preset or the checkpoint; a new scaling keeps the base, a new base the scaling.

    Raises:
        ValueError: both ways of naming them, or a scaling of no known type.
    """
    given = [name for name in ROPE if name in fields]
    if not given:
        return fields
    if "rope_parameters" in fields:
        raise ValueError(f"field {given[0]!r}: found it beside rope_parameters, expected one of the two")
    rope = dict(parameters)
    if "rope_scaling" in fields:
        scaling = dict(fields["rope_scaling"] or {"rope_type": "default"})
        scaling["rope_type"] = kind = scaling.pop("type", scaling.get("rope_type"))
        if kind not in (known := ["default", *sorted(ROPE_INIT_FUNCTIONS)]):
            raise ValueError(f"field 'rope_scaling': found the type {kind!r}, expected one of {', '.join(known)}")
        rope = {"rope_theta": rope["rope_theta"]} | scaling
    if "rope_theta" in fields:
        rope["rope_theta"] = fields["rope_theta"]
    return {name: value for name, value in fields.items() if name not in ROPE} | {"rope_parameters": rope}
