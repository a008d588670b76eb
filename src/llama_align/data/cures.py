"""What would read a row that was refused: options of its source to try, and the words for them.

Knows the names other projects give to content, and the options of a source; not how a row is read.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from .records import RecordError
from .sources import DataSource

PAGE = "docs/your_own_data.md"

_KNOWN = {
    "prompt": ("prompt", "instruction", "question", "query", "problem", "input", "user", "human", "title"),
    "completion": ("completion", "output", "response", "answer", "solution", "reply", "assistant", "target", "summary"),
    "chosen": ("chosen", "chosen_response", "preferred", "better", "winner", "accepted", "response_chosen", "positive"),
    "rejected": ("rejected", "rejected_response", "dispreferred", "worse", "loser", "response_rejected", "negative"),
    "score": ("score", "rating", "overall_score", "reward", "votes", "grade"),
    "messages": ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "items"),
    "text": ("text", "content", "document", "body", "article"),
}
_NEEDED = {
    "document": [("text",)],
    "prompt": [("prompt",), ("messages",)],
    "demonstration": [("prompt", "completion"), ("messages",)],
    "preference": [
        ("prompt", "chosen", "rejected"),
        ("messages", "chosen", "rejected"),
        ("prompt", "completion", "score"),
    ],
}
_BESIDE = ("input", "context", "passage")  # what goes with an instruction or a question


def changes(source: DataSource, kind: str, row: dict) -> Iterator[tuple[str, DataSource]]:
    """Options that could read the row, likeliest first: the words for a user, and the source with them."""
    for name in ("alpaca", "sharegpt", "ultrafeedback", "hh") if source.format in ("auto", "trl", "records") else ():
        yield f"format: {name} would read it", replace(source, format=name)
    if not source.columns:
        for columns in _columns(kind, row):
            said = ", ".join(
                f'{ours}: "{theirs}"' if "{" in theirs else f"{ours}: {theirs}" for ours, theirs in columns.items()
            )
            yield (
                f"columns: {{{said}}} would read it".replace("\n", "\\n"),
                replace(source, columns=columns, format="auto"),
            )
    if source.kind == "auto":
        for richer in ("demonstration", "preference"):
            yield f"kind: {richer} would take what is needed from it", replace(source, kind=richer)


def _columns(kind: str, row: dict) -> Iterator[dict[str, str]]:
    for needed in _NEEDED.get(kind, ()):
        found = [[theirs for theirs in _KNOWN[ours] if row.get(theirs) is not None][:2] for ours in needed]
        for names in product(*found):
            if len(set(names)) < len(names):
                continue
            columns = dict(zip(needed, names, strict=True))
            asked = columns.get("prompt")
            beside = [name for name in _BESIDE if isinstance(row.get(name), str) and name not in names]
            if asked and beside:
                parts = [beside[0], asked] if beside[0] != "input" else [asked, beside[0]]
                columns["prompt"] = "\n\n".join(f"{{{part}}}" for part in parts)
            yield columns


def advice(error: RecordError, reading: str | None) -> str:
    """The words after an error: what would read the row, and what leaves it out."""
    missing = error.found == "nothing"
    if error.field == "grade" and missing:
        reading = "default_grade is for rows without one, grades takes it from a column"
    elif error.field == "objective" and missing:
        reading = "objective: helpfulness, or safety, in the source is for rows without one"
    return "; ".join(filter(None, [reading, f"skip: count leaves out such rows ({PAGE})"]))
