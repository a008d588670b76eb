"""Which language a text is in, offline: py3langid, or fastText's models where a file of one is given.

Llama 3 (section 3.1.1): "We use a fasttext-based language identification model to categorize documents into 176
languages."
"""

import re
from collections.abc import Callable
from functools import cache

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
        # `model.predict` fails with numpy 2, which its library does not know
        ((probability, label),) = model.f.predict(f"{sample}\n", 1, 0.0, "strict")
        return label.removeprefix("__label__"), min(1.0, float(probability))

    return identify
