"""A record under refinement: the dialog in it, the same record in other words, and what rules found out about it."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..chat import Answer, Message, as_answer, as_text
from ..data import Demonstration, Preference, Record, RecordError, Sample

KINDS = ("demonstration", "preference", "sample")
SCORED = ("reward", "gap", "rating", "points", "intentions", "spread", "quality", "difficulty")


@dataclass
class Row:
    """A record, its place among those that were read, and what was found out about it by name."""

    number: int
    record: Record
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> list[Message]:
        """What the answer answers.

        Raises:
            RecordError: a demonstration whose answer follows nobody.
        """
        if not isinstance(self.record, Demonstration):
            return self.record.prompt
        before = self.record.messages[:-1]
        if not before or before[-1]["role"] not in ("user", "ipython"):
            found = before[-1]["role"] if before else "nothing"
            raise RecordError(f"record {self.number + 1}", "messages", f"{found} before the answer", "a user or a tool")
        return before

    @property
    def answer(self) -> tuple[Answer, bool]:
        """The answer that is worth keeping, a preference's better one, and whether it ended by itself."""
        record = self.record
        if isinstance(record, Preference):
            return record.best
        if isinstance(record, Sample):
            return record.completion, record.finished
        return as_answer(record.messages[-1]), record.finished is not False

    def objective(self, default: str) -> str:
        """What the answer is judged for; a demonstration does not say."""
        return getattr(self.record, "objective", default)

    @property
    def dialog(self) -> str:
        """All of it as text, the better answer last."""
        said = self.record.messages[:-1] if isinstance(self.record, Demonstration) else self.record.prompt
        lines = [f"{message['role']}: {as_text(message)}" for message in said]
        return "\n".join([*lines, f"assistant: {as_text(self.answer[0])}"])

    @property
    def digest(self) -> str:
        """A digest of the record."""
        return hashlib.sha256(json.dumps(self.record.to_dict(), sort_keys=True).encode()).hexdigest()

    @property
    def worth(self) -> float:
        """Quality times difficulty, as far as they are known (Llama 3, section 4.2.3)."""
        return self.found.get("quality", 1.0) * self.found.get("difficulty", 1.0)

    def rewrite(self, change: Callable[[str], str]) -> bool:
        """Puts `change` of every text of the assistant's in its place; whether that changed anything.

        What was scored is then unknown again, a sample's own rewards among it: they were another answer's.
        """
        record = self.record
        if isinstance(record, Demonstration):
            messages = [
                m | {"content": change(m["content"])} if m["role"] == "assistant" else m for m in record.messages
            ]
            new = replace(record, messages=messages)
        else:
            names = ("completion",) if isinstance(record, Sample) else ("chosen", "rejected", "edited")
            new = replace(record, **{name: _changed(getattr(record, name), change) for name in names})
        if new == record:
            return False
        self.record = replace(new, rewards={}) if isinstance(new, Sample) else new
        self.found = {name: value for name, value in self.found.items() if name not in SCORED}
        return True

    @property
    def is_silent(self) -> bool:
        """Whether a text of the assistant's says nothing, without a call that would."""
        record = self.record
        if isinstance(record, Demonstration):
            answers: list[Answer | None] = [as_answer(m) for m in record.messages if m["role"] == "assistant"]
        else:
            answers = (
                [record.completion] if isinstance(record, Sample) else [record.chosen, record.rejected, record.edited]
            )
        return any(answer is not None and not as_text(answer).strip() for answer in answers)

    def excerpt(self, most: int = 160) -> str:
        """The last question and the answer in a line, each cut."""
        said = self.record.messages[:-1] if isinstance(self.record, Demonstration) else self.record.prompt
        texts = (as_text(said[-1]) if said else "", as_text(self.answer[0]))
        return " -> ".join(line if len(line) <= most else f"{line[:most]}..." for line in map(_line, texts))


def _line(text: str) -> str:
    return " ".join(text.split())


def _said(message: Message, change: Callable[[str], str]) -> Message:
    return message | {"content": change(message["content"])} if message["role"] == "assistant" else message


def _changed(answer: Answer | None, change: Callable[[str], str]) -> Answer | None:
    if answer is None:
        return None
    return change(answer) if isinstance(answer, str) else answer | {"content": change(answer["content"])}
