"""What a rule did: rows in and out, what it changed and dropped and why, with examples."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .rows import Row

EXAMPLES = 5  # of each reason


@dataclass
class Tally:
    """The counts of one rule. facts: numbers of its own by name."""

    rule: str
    options: dict[str, Any]
    rows_in: int = 0
    rows_out: int = 0
    changed: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)
    _examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    gone: dict[int, str] = field(default_factory=dict)  # number of a row -> why

    def change(self, reason: str, row: Row, before: str) -> None:
        """A row that was changed, and how it read before."""
        self.changed[reason] += 1
        self._example(reason, row, f"{before} => {row.excerpt()}")

    def drop(self, reason: str, row: Row, more: str = "") -> None:
        """A row that goes."""
        self.dropped[reason] += 1
        self.gone[row.number] = reason
        self._example(reason, row, f"{row.excerpt()}{more}")

    def _example(self, reason: str, row: Row, text: str) -> None:
        # spread over all rows by a digest, so that the first ones do not stand for the rest
        key = hashlib.sha256(f"{reason}\0{row.number}\0{row.digest}".encode()).hexdigest()
        held = sorted([*self._examples.get(reason, []), (key, text)])
        self._examples[reason] = held[:EXAMPLES]

    def left(self, rows: list[Row]) -> list[Row]:
        """The rows that were not dropped, in order; counts them."""
        kept = [row for row in rows if row.number not in self.gone]
        self.rows_in, self.rows_out = len(rows), len(kept)
        return kept

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        examples = {reason: [text for _, text in held] for reason, held in sorted(self._examples.items())}
        return {
            "rule": self.rule,
            "options": self.options,
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "changed": dict(sorted(self.changed.items())),
            "dropped": dict(sorted(self.dropped.items())),
            **({"facts": self.facts} if self.facts else {}),
            "examples": examples,
        }
