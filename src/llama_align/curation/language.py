"""Which language a text is in, offline: py3langid, or fastText's models where a file of one is given.

Llama 3 (section 3.1.1): "We use a fasttext-based language identification model to categorize documents into 176
languages."
"""

import re
from collections.abc import Callable
from functools import cache
from statistics import median, stdev

SAMPLE = 2000  # characters that decide; more change the answer of no document we saw
_NOISE = re.compile(r"https?://\S+|[\d_]+|\s+")
Identifier = Callable[[str], tuple[str, float]]


def identify(text: str) -> tuple[str, float]:
    """The code of ISO 639-1 (639-3 where there is none) and its probability; ("und", 0.0) for text without letters."""
    return langid()(text)


def sample_of(text: str) -> str:
    """What of a text decides: its middle, as beginnings are menus and ends are footers, without numbers and URLs."""
    start = max(0, (len(text) - SAMPLE) // 2)
    return _NOISE.sub(" ", text[start : start + SAMPLE]).strip()


@cache
def langid() -> Identifier:
    """py3langid's model, which comes with the package."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def identify(text: str) -> tuple[str, float]:
        sample = sample_of(text)
        if not any(map(str.isalpha, sample)):
            return "und", 0.0
        code, probability = model.classify(sample)
        return code, float(probability)

    return identify


def fasttext(path: str) -> Identifier:
    """A fastText model of one's own, such as lid.176."""
    import fasttext as library

    model = library.load_model(path)

    def identify(text: str) -> tuple[str, float]:
        sample = sample_of(text)
        if not any(map(str.isalpha, sample)):
            return "und", 0.0
        (label,), (probability,) = model.predict(sample)
        return label.removeprefix("__label__"), min(1.0, float(probability))

    return identify


def threshold(probabilities: list[float], low: float = 0.3, high: float = 0.9) -> float:
    """The least probability a language's documents need: its median less a deviation, within bounds (FineWeb 2)."""
    spread = stdev(probabilities) if len(probabilities) > 1 else 0.0
    return max(low, min(high, median(probabilities) - spread)) if probabilities else low
