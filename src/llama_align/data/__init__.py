"""Records, readers with line-exact errors, mixtures, splits and packing."""

from .infilling import Infilling
from .jsonl import read_jsonl, read_records, write_jsonl
from .lengths import characters, dialog_tokens, pair_tokens
from .mixture import LoadReport, load_records
from .packing import pack
from .rankings import UNGRADED, UNKNOWN, LeftOut, ranking_rows
from .reading import read_source
from .records import (
    GRADES,
    KINDS,
    OBJECTIVES,
    ROLES,
    Demonstration,
    Document,
    Preference,
    Prompt,
    Record,
    RecordError,
    Sample,
    SourceError,
)
from .sources import DataSource
from .splits import split_by_prompt
from .tokenized import (
    PairsLeftOut,
    demonstration_rows,
    document_rows,
    fitting_prompts,
    full_rows,
    preference_rows,
    text_ids,
    tokens_of,
)

__all__ = [
    "GRADES",
    "KINDS",
    "OBJECTIVES",
    "ROLES",
    "UNGRADED",
    "UNKNOWN",
    "DataSource",
    "Demonstration",
    "Document",
    "Infilling",
    "LeftOut",
    "LoadReport",
    "PairsLeftOut",
    "Preference",
    "Prompt",
    "Record",
    "RecordError",
    "Sample",
    "SourceError",
    "characters",
    "demonstration_rows",
    "dialog_tokens",
    "document_rows",
    "fitting_prompts",
    "full_rows",
    "load_records",
    "pack",
    "pair_tokens",
    "preference_rows",
    "ranking_rows",
    "read_jsonl",
    "read_records",
    "read_source",
    "split_by_prompt",
    "text_ids",
    "tokens_of",
    "write_jsonl",
]
