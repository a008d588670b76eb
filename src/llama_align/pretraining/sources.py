"""The sources of a pretraining run, opened: mapped tokens with the share and the bound on epochs that were asked for.

Knows data sources and token files; documents that are not tokenised yet are tokenised first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from ..data import DataSource, Infilling, SourceError
from .tokens import COLUMN, Tokens, folder_of, open_folder, open_saved
from .write import tokenise, tokenizer_digest


@dataclass(frozen=True)
class Source:
    """A source of tokens. weight: its share, None where nobody said; most_epochs: how often it may be read."""

    tokens: Tokens
    weight: float | None = None
    most_epochs: float = 1.0

    @property
    def name(self) -> str:
        return self.tokens.name


def open_sources(
    sources: Sequence[DataSource | dict | str],
    tokenizer: PreTrainedTokenizerBase,
    tokens_dir: str | Path,
    workers: int = 1,
    infilling: Infilling | None = None,
) -> list[Source]:
    """The sources, those of documents tokenised into folders below `tokens_dir` unless they lie there already.

    With several processes the first tokenises while the others wait.

    Args:
        infilling: which documents have their middle moved to their end; what is tokens already cannot be.

    Raises:
        SourceError: no source, token files of another tokenizer, or an option that has no effect on what is tokenised.
        RecordError: a row that does not fit.
    """
    if not sources:
        raise SourceError("datasets: found no source, expected one")
    found, made_by = [], tokenizer_digest(tokenizer)
    for source in map(DataSource.parse, sources):
        if infilling and infilling.rate and (source.format == "tokens" or folder_of(source.path)):
            raise SourceError(f"data source {source.path}: found tokens with infilling, expected documents to split")
        if (folder := folder_of(source.path)) is not None:
            tokens = open_folder(folder, source.name)
            replace(source, format="tokens")  # which refuses options that choose rows
            for key, expected in (("columns", (None,)), ("split", ("train",)), ("format", ("auto", "tokens"))):
                if (value := getattr(source, key)) not in expected:
                    raise SourceError(
                        f"data source {source.path}, key {key!r}: found {value!r} for token files, expected none"
                    )
        elif source.format == "tokens":
            tokens = open_saved(source.path, (source.columns or {}).get("ids", COLUMN), source.label, source.split)
        else:
            with PartialState().main_process_first():
                tokens = open_folder(
                    tokenise(source, tokenizer, tokens_dir, workers, infilling=infilling), source.label
                )
        if tokens.tokenizer not in (None, made_by):
            raise SourceError(
                f"data source {source.path}: found tokens of the tokenizer {tokens.tokenizer}, expected those of "
                f"{made_by}, the run's"
            )
        found.append(Source(tokens, source.weight, source.most_epochs))
    return found


def described(sources: Sequence[Source]) -> str:
    """A plain table of the sources."""
    heads = ("source", "documents", "tokens", "bytes")
    rows = [(one.name, one.tokens.documents, one.tokens.tokens, one.tokens.bytes) for one in sources]
    width = max(len(str(row[0])) for row in [heads, *rows])
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell or "?") for cell in row] for row in [heads, *rows]]
    return "\n".join(f"{row[0]:<{width}}" + "".join(f"{cell:>18}" for cell in row[1:]) for row in cells)
