"""K answers per prompt: engines by name and what they share. Knows nothing of rewards or of choosing."""

from .dialogs import DialogSampler, Draft
from .engine import Answer, Engine, SamplingParams
from .infilling import Filled, Infiller
from .make import make_engine

__all__ = [
    "Answer",
    "DialogSampler",
    "Draft",
    "Engine",
    "Filled",
    "Infiller",
    "SamplingParams",
    "make_engine",
]
