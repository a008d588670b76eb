"""Corpora as mapped tokens, and which of them a step reads: shares by tokens, stages, epochs. Knows no models.

Imports datasets, pyarrow; see docs/design.md ("Pretraining").
"""

from .gates import Gates
from .plan import Plan
from .retrieval import Retrieval, write_retrieval
from .rows import SourceRows, StepRows
from .sources import Source, described, open_sources
from .stages import Rates, Stage, StageError
from .tokens import Tokens
from .write import tokenise

__all__ = [
    "Gates",
    "Plan",
    "Rates",
    "Retrieval",
    "Source",
    "SourceRows",
    "Stage",
    "StageError",
    "StepRows",
    "Tokens",
    "described",
    "open_sources",
    "tokenise",
    "write_retrieval",
]
