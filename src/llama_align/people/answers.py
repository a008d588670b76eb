"""What a page sends, read against what it was asked: an answer, or why it is none."""

from collections.abc import Mapping
from typing import Any

from ..chat import as_text
from ..data import GRADES
from .store import Work

LONGEST = 20_000  # characters of a prompt or an edited answer
NOTE = 1_000  # characters of a reason or a note
DRAFTED = ("choice", "safe_left", "safe_right", "edited", "edited_of", "seconds", "text")
CHOICES = 2 * len(GRADES)  # 1: the left one significantly better, ..., 8: the right one


class Refused(ValueError):
    """What somebody sent is no answer; the message is for them."""


def read_answer(work: Work, form: Mapping[str, str], now: float) -> dict[str, Any]:
    """The fields of an event that says how somebody answered.

    Args:
        now: seconds as of `time.time`, to hold what a browser has measured against.

    Raises:
        Refused: a choice, a label of safety or an edit that is missing or does not fit.
    """
    choice = form.get("choice", "")
    if not (choice.isascii() and choice.isdigit() and 1 <= int(choice) <= CHOICES):
        raise Refused("Choose one of the eight grades first.")
    right = int(choice) > len(GRADES)
    grade = GRADES[CHOICES - int(choice) if right else int(choice) - 1]
    chosen = 1 - work.first if right else work.first
    return {
        "first": work.first,
        "chosen": chosen,
        "grade": grade,
        "safe": _safe(work, form),
        "edited": _edited(work, form, chosen, right),
        "seconds": _seconds(form, now - (work.opened or now)),
    }


def _safe(work: Work, form: Mapping[str, str]) -> list[bool] | None:
    """Of the item's two answers in their order, whatever side they stood on."""
    if work.item.objective != "safety":
        return None
    said = [form.get(name, "") for name in ("safe_left", "safe_right")]
    if not set(said) <= {"0", "1"}:
        raise Refused("Say of each answer whether it is safe.")
    sides = [one == "1" for one in said]
    return sides if work.first == 0 else sides[::-1]


def _edited(work: Work, form: Mapping[str, str], chosen: int, right: bool) -> str | None:
    text = form.get("edited", "").replace("\r\n", "\n").strip()
    if not text:
        return None
    answer = work.answers[chosen].answer
    if not isinstance(answer, str):
        raise Refused("An answer that calls a tool cannot be edited.")
    if form.get("edited_of") != ("right" if right else "left"):
        raise Refused("The edited text is of the other answer. Choose that one, or remove the edit.")
    if text == as_text(answer).strip():
        return None
    return _bounded(text, LONGEST, "The edited answer")


def _seconds(form: Mapping[str, str], passed: float) -> float:
    """How long the page was looked at, by the browser; at most what passed here, which also stands in for it."""
    try:
        measured = float(form.get("seconds", ""))
    except ValueError:
        measured = passed
    return round(max(0.0, min(measured, passed)), 1) if measured == measured else round(passed, 1)


def read_text(form: Mapping[str, str], name: str, most: int, what: str, needed: bool = True) -> str:
    """A text that somebody wrote. Raises Refused where it is missing or too long."""
    text = form.get(name, "").replace("\r\n", "\n").strip()
    if needed and not text:
        raise Refused(f"{what} is empty.")
    return _bounded(text, most, what)


def _bounded(text: str, most: int, what: str) -> str:
    if len(text) > most:
        raise Refused(f"{what} has {len(text)} characters; {most} are the most.")
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise Refused(f"{what} has characters that no text has.")
    return text
