"""The forms an answer can be asked for: how each is asked, written and recognised."""

from collections.abc import Callable
from dataclasses import dataclass

from llama_align.sandbox.phrasing import ANY_SENTENCE


def _is_sentence(text: str) -> bool:
    begins_otherwise = text[0].islower() or text.startswith(("(", "Answer: "))
    return text.endswith(".") and len(text.split()) > 2 and not begins_otherwise


def _is_twice(text: str) -> bool:
    words = text.removesuffix(".").split()
    half = len(words) // 2
    return half > 0 and words[:half] == words[half:]


@dataclass(frozen=True)
class Form:
    """What the instruction adds, the pattern of an answer, and whether any text at all has this form."""

    request: str
    pattern: str
    fits: Callable[[str], bool]


FORMS = {
    "sentence": Form("Answer in a full sentence.", "", _is_sentence),
    "brackets": Form("Put the answer in brackets.", "({answer})", lambda text: text[:1] == "(" and ")" in text[-2:]),
    "label": Form("Begin with the word Answer.", "Answer: {answer}", lambda text: text.startswith("Answer: ")),
    "twice": Form("Say the answer twice.", "{answer} {answer}", _is_twice),
}
NAMES = ("plain", *FORMS)


def ask(question: str, form: str) -> str:
    """Returns the instruction: the question, followed by the form it asks for (`plain` asks for none)."""
    return question if form == "plain" else f"{question} {FORMS[form].request}"


def render(form: str, answer: str, sentences: list[str]) -> list[str]:
    """Returns every accepted way to give `answer` in a form, the usual one first.

    `sentences` are the sentences that state it, with `{answer}` where it stands; a full stop elsewhere is optional.
    """
    if form == "sentence":
        return [sentence.format(answer=answer) for sentence in (*sentences, ANY_SENTENCE)]
    text = answer if form == "plain" else FORMS[form].pattern.format(answer=answer)
    return [text, f"{text}."]


def fits(form: str, text: str, answer: str) -> bool:
    """Returns whether a text has a form, whatever it says.

    Plain is what has no other form, except a form the true answer has by itself, as `oak oak` does.
    """
    if not text:
        return False
    if form == "plain":
        return not any(other.fits(text) for other in FORMS.values() if not other.fits(answer))
    return FORMS[form].fits(text)
