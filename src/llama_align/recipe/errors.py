"""How a recipe ends otherwise than well: mistakes a user can put right, and work stopped before its end."""

TRACEBACK = "LLAMA_ALIGN_TRACEBACK"


class RecipeError(ValueError):
    """A setting or checkpoint a user can put right; recipes print it without a traceback."""


STOPPED_EARLY = 75  # exit code of what the same command goes on with; EX_TEMPFAIL of sysexits.h


class StoppedEarly(Exception):
    """Work was asked to stop and has saved what it had: nothing is wrong, and nothing is finished."""
