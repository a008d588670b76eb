"""Sizes by name as configurations; the table is in `sizes/published.py`."""

from copy import deepcopy

from ..sizes.published import known
from .configuration_llama_herd import LlamaHerdConfig
from .rotary import with_rope


def preset(name: str, **overrides) -> LlamaHerdConfig:
    """The configuration of a named size, with fields overridden.

    Raises:
        ValueError: unknown name, or fields that make no model.
    """
    fields = deepcopy(known(name))
    try:
        config = LlamaHerdConfig(**fields)
        if overrides:
            config = LlamaHerdConfig(**fields | with_rope(overrides, config.rope_parameters))
    except Exception as error:  # of Python, of transformers or of huggingface_hub
        raise ValueError(f"model size {name!r} with {overrides}: {type(error).__name__}: {error}") from error
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    if heads % groups or width % heads:
        found = f"{heads} heads in {groups} groups over a width of {width}"
        raise ValueError(
            f"model size {name!r} with {overrides}: found {found}, expected numbers that divide each other"
        )
    return config
