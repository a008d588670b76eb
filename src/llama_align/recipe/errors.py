"""How a recipe ends otherwise than well: mistakes a user can put right, and work stopped before its end."""

TRACEBACK = "LLAMA_ALIGN_TRACEBACK"


class RecipeError(ValueError):
    """A setting or checkpoint a user can put right; recipes print it without a traceback."""


STOPPED_EARLY = 75  # exit code of what the same command goes on with; EX_TEMPFAIL of sysexits.h
WAITS_FOR_PEOPLE = 79  # the same, when people have done their part
WAITS = "waits.json"  # how far they are, for whoever started what waits for them
GATE_SHUT = 3  # exit code of a run whose model did not show what its plan asks for


class StoppedEarly(Exception):
    """Work was asked to stop and has saved what it had: nothing is wrong, and nothing is finished."""


class WaitsForPeople(StoppedEarly):
    """What people have to do first is not done yet."""


class GateShut(Exception):
    """A gate of a pretraining run stayed shut: nothing is wrong with its settings, and it cannot go on."""
