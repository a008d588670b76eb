"""Splits by prompt: everything about one prompt lands on one side, whatever else is added later."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from .records import Document, Record

R = TypeVar("R", bound=Record)


def prompt_text(record: Record) -> str:
    """What a record is kept together by: the dialog's opening message from the user, or a document's text.

    The opening, so that a dialog and its continuation are never on two sides.
    """
    if isinstance(record, Document):
        return record.text
    messages = getattr(record, "messages", None) or record.prompt
    return next((m["content"] for m in messages if m["role"] == "user"), messages[0]["content"]).strip()


def place(record: Record, seed: int = 0) -> float:
    """Where a record's prompt falls in [0, 1): evenly spread, a function of its text and the seed alone."""
    digest = hashlib.sha256(f"{seed}\0{prompt_text(record)}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def split_by_prompt(records: Iterable[R], fractions: Mapping[str, float], seed: int = 0) -> dict[str, list[R]]:
    """The records by name of their split, in order. `fractions` add up to 1 and hold in expectation over prompts.

    The split of a prompt depends on its text and the seed alone. Raises ValueError for fractions that do not fit.
    """
    if not fractions or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-9:
        raise ValueError(f"fractions of splits: found {dict(fractions)}, expected shares that add up to 1")
    names = [name for name, fraction in fractions.items() if fraction > 0]
    splits: dict[str, list[R]] = {name: [] for name in fractions}
    for record in records:
        edge, found = 0.0, place(record, seed)
        for name in names:
            edge += fractions[name]
            if found < edge:
                break
        splits[name].append(record)  # the last one when rounding leaves the sum just under 1
    return splits
