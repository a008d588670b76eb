"""Context and rotary frequencies that differ from a preset's or a checkpoint's; the weights are the same for any.

Llama 3 raises them in stages when its context grows (section 3.4.2), Code Llama by the base of the frequencies alone.
"""

from typing import Any

from ..models import rotary
from ..models.rotary import ROPE
from .errors import RecipeError

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
    """`models.rotary.with_rope` for the fields of an option.

    Raises:
        RecipeError: both ways of naming them, or a scaling of no known type.
    """
    try:
        return rotary.with_rope(fields, parameters)
    except ValueError as error:
        raise RecipeError(f"{option}, {error}") from None
