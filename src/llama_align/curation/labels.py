"""Labels of quality from a chat checkpoint, asked with a prompt for each kind of data; how far two labellings agree.

Llama 3 (section 3.1.1): "To train a quality classifier based on Llama 2, we create a training set of cleaned web
documents, describe the quality requirements, and instruct Llama 2's chat model to determine if the documents meets
these requirements. We use DistilRoberta to generate quality scores for each document for efficiency reasons." And for
code and reasoning: "The code and reasoning classifiers are DistilRoberta models trained on web data annotated by Llama
2. Unlike the general quality classifier mentioned above, we conduct prompt tuning to target web pages containing math
deduction, reasoning in STEM areas and code interleaved with natural language."
"""

import re
from collections.abc import Callable, Sequence

from ..chat import Message

CHARACTERS = 2000  # of a document that the model is shown
LABELS = ("bad", "good")
PROMPTS = {
    "general": (
        "Here is a web page as text. Is it of high quality for teaching a language model: written for people to read, "
        "coherent, informative, and neither advertising nor a list of links?"
    ),
    "code": (
        "Here is a web page as text. Does it teach programming or explain code: source code together with natural "
        "language about it, correct as far as you can tell, and not a mere dump of files or logs?"
    ),
    "reasoning": (
        "Here is a web page as text. Does it hold mathematical deduction or reasoning in science, technology, "
        "engineering or mathematics, step by step, which a student could follow?"
    ),
}
_ANSWER = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
Ask = Callable[[Sequence[list[Message]]], list[str]]


def question(text: str, kind: str) -> list[Message]:
    """The dialog that asks for a document's label."""
    if kind not in PROMPTS:
        raise ValueError(f"kind: found {kind!r}, expected one of {', '.join(PROMPTS)}")
    content = f"{PROMPTS[kind]}\n\n---\n{text[:CHARACTERS]}\n---\n\nAnswer yes or no."
    return [{"role": "user", "content": content}]


def read_answer(answer: str) -> str | None:
    """The label an answer gives; None for one that says neither, or both."""
    said = {word.lower() for word in _ANSWER.findall(answer)}
    return {"yes": "good", "no": "bad"}[said.pop()] if len(said) == 1 else None


def ask_for_labels(texts: Sequence[str], kind: str, ask: Ask) -> tuple[list[str | None], int]:
    """A label for each text (None where the model gave none), and how many it did not give."""
    labels = [read_answer(answer) for answer in ask([question(text, kind) for text in texts])]
    return labels, labels.count(None)


def agreement(given: Sequence[str], found: Sequence[str]) -> dict[str, float]:
    """Share of equal labels, Cohen's kappa, and precision, recall and F1 of "good"."""
    pairs = list(zip(given, found, strict=True))
    if not pairs:
        raise ValueError("labels: found none to compare")
    same = sum(a == b for a, b in pairs) / len(pairs)
    names = {*given, *found}
    chance = sum((given.count(name) / len(pairs)) * (found.count(name) / len(pairs)) for name in names)
    hit = sum(a == b == LABELS[1] for a, b in pairs)
    claimed, there = list(found).count(LABELS[1]), list(given).count(LABELS[1])
    return {
        "agreement": same,
        "kappa": (same - chance) / (1 - chance) if chance < 1 else 1.0,
        "precision": hit / claimed if claimed else 0.0,
        "recall": hit / there if there else 0.0,
        "f1": 2 * hit / (claimed + there) if claimed + there else 0.0,
    }
