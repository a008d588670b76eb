"""The mistakes a user can put right, as recipes report them."""

TRACEBACK = "LLAMA_ALIGN_TRACEBACK"


class RecipeError(ValueError):
    """A setting or checkpoint a user can put right; recipes print it without a traceback."""
