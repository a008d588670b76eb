"""Steps that apply classifiers: better and worse documents, and topics."""

from functools import cache
from pathlib import Path

from datatrove.data import Document

from ..data.opening import expand
from .classify import load
from .kinds import KINDS
from .ledger import Rule, Tally
from .options import Quality, Topics


class Better(Rule):
    """Drops documents whose probability of the last class in order, the better one, is below their kind's threshold."""

    def __init__(self, options: Quality, folder: Path):
        super().__init__("quality", folder)
        self.options = options

    def start(self, rank: int, world_size: int) -> None:
        loaded = cache(load)
        self.of = {kind: (loaded(expand(of.model)), of) for kind in KINDS for of in [self.options.of(kind)]}

    def judge(self, document: Document, tally: Tally) -> str | None:
        kind = document.metadata.get("kind", KINDS[0])
        classifier, options = self.of[kind]
        probability = round(float(classifier.probabilities([document.text])[0, -1]), 4)
        document.metadata.setdefault("scores", {})["quality"] = probability
        if probability >= options.threshold:
            return None
        return "low quality" if kind == KINDS[0] else f"low quality, {kind}"


class Topic(Rule):
    """Names each document's topic; which of them stay is decided when all are known."""

    def __init__(self, options: Topics, folder: Path):
        super().__init__("topics", folder)
        self.options = options

    def start(self, rank: int, world_size: int) -> None:
        self.classifier = load(expand(self.options.model))

    def judge(self, document: Document, tally: Tally) -> str | None:
        document.metadata["topic"] = self.classifier.labels([document.text])[0]
        tally.changed[document.metadata["topic"]] += 1
        return None
