"""Documents in which what was said far back is asked for at the end, as a source of token files.

A model that has seen plain text alone may not know that it is being asked; a share of these in stages of long rows
teaches it the form. Knows token files and haystacks; knows nothing of stages.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data import SourceError
from ..data.records import is_number, show
from ..runtime.files import remove_stale_parts, write_json
from ..runtime.identity import settings_digest
from .needles import Haystack
from .tokens import MANIFEST, Tokens
from .write import manifest_of, tokenizer_digest, write_ids

FILE_TOKENS = 1 << 24  # of one file
VERSION = 2  # of what is written; another makes other folders


@dataclass(frozen=True)
class Retrieval:
    """Documents of `length` tokens each, in which one to `needles` keys of so many digits are said and asked for.

    copies: share of them that say a passage twice instead. To copy has to be learned first, and of such a document up
        to half can be copied, of one with keys a few tokens.
    """

    length: int
    documents: int
    needles: int = 4
    digits: int = 5
    copies: float = 0.0
    seed: int = 0
    name: str = ""

    @classmethod
    def parse(cls, value: Any, number: int) -> "Retrieval":
        """Raises SourceError for an unknown key or a value that does not fit."""
        where, known = f"retrieval[{number}]", [one.name for one in fields(cls)]
        if not isinstance(value, dict) or {"length", "documents"} - set(value) or set(value) - set(known):
            expected = f"a mapping with length and documents, and of {', '.join(known)} what is not as by default"
            raise SourceError(f"{where}: found {show(value)}, expected {expected}")
        for key, found in value.items():
            if key == "name":
                fits, expected = isinstance(found, str) and found, "text"
            elif key == "copies":
                fits, expected = is_number(found) and 0 <= found <= 1, "a share from 0 to 1"
            else:
                least = 0 if key == "seed" else 1
                fits, expected = type(found) is int and found >= least, f"a whole number of at least {least}"
            if not fits:
                raise SourceError(f"{where}, key {key!r}: found {show(found)}, expected {expected}")
        return cls(**{"name": f"retrieval-{value['length']}"} | value)


def write_retrieval(
    wanted: Retrieval, folders: Sequence[Path], sources: Sequence[Tokens], tokenizer: PreTrainedTokenizerBase
) -> Path:
    """The folder of these documents beside those of the sources whose text they are of, written unless it is there.

    Args:
        folders: of the sources, named by what is in them.

    Raises:
        SourceError: documents too short for what is said in them.
    """
    said = {"version": VERSION, "tokenizer": tokenizer_digest(tokenizer), "of": sorted(one.name for one in folders)}
    digest = settings_digest(said | {"rows": asdict(wanted)})
    folder = folders[0].parent / f"{wanted.name}-{digest}"
    if (folder / MANIFEST).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    remove_stale_parts(folder)
    hay, files = Haystack(sources, tokenizer, wanted.digits), []
    at_once = max(1, FILE_TOKENS // wanted.length)
    for start in range(0, wanted.documents, at_once):
        file = folder / f"{len(files):06}.arrow"
        numbers = range(start, min(start + at_once, wanted.documents))
        if not file.is_file():
            write_ids((_document(hay, wanted, n) for n in numbers), tokenizer, file)
        files.append(file)
    write_json(folder / MANIFEST, manifest_of(wanted.name, tokenizer, files) | {"rows": said | asdict(wanted)})
    return folder


def _document(hay: Haystack, wanted: Retrieval, number: int) -> list[int]:
    key = f"{wanted.seed}/{wanted.length}/{number}"
    # as many of any first n as of all, without a draw
    if math.floor((number + 1) * wanted.copies) > math.floor(number * wanted.copies):
        return hay.copy(wanted.length, key)
    return hay.document(wanted.length, wanted.needles, key)
