"""IFEval's instructions, each checked by a rule (Zhou et al. 2023, arXiv 2311.07911).

The reference's rules, with its language detector and sentence splitter, which take downloads, replaced: languages are
py3langid's, a sentence ends with . ! or ? before white space and a capital letter, digit or quotation mark.
"""

import json
import re
from collections.abc import Callable, Iterator

from ..curation.language import identify

ANSWERS = ("my answer is yes.", "my answer is no.", "my answer is maybe.")
SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\n\s*\n")
WORD = re.compile(r"\w+")
TOKEN = re.compile(r"\w+(?:[-'’]\w+)*")
POSTSCRIPTS = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}


def followed(name: str, given: dict, prompt: str, text: str) -> bool:
    """Whether an answer follows an instruction of a prompt.

    Args:
        name: as in `instruction_id_list`. given: of `kwargs`.

    Raises:
        ValueError: an instruction without a rule.
    """
    rule = name.partition(":")[2]
    if rule not in RULES:
        raise ValueError(f"instruction_id_list: found {name!r}, expected one of {', '.join(RULES)}")
    given = {key: value for key, value in given.items() if value is not None}
    return bool(text.strip()) and bool(RULES[rule](text, given | {"prompt": prompt}))


def looser(text: str) -> Iterator[str]:
    """The answer, and it without its first line, its last and both, each with and without asterisks."""
    lines = text.split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        joined = "\n".join(part).strip()
        yield joined
        yield joined.replace("*", "")


def _related(found: int, relation: str, wanted: int) -> bool:
    if relation not in ("at least", "less than"):
        raise ValueError(f"kwargs, relation: found {relation!r}, expected at least or less than")
    return found >= wanted if relation == "at least" else found < wanted


def _sentences(text: str) -> int:
    return sum(bool(WORD.search(part)) for part in SENTENCE.split(text))


def _language(text: str, wanted: str) -> bool:
    return identify(text)[0] == wanted


def _paragraphs(text: str, given: dict) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    inner = parts[1:-1]
    return all(part.strip() for part in inner) and sum(map(bool, map(str.strip, parts))) == given["num_paragraphs"]


def _nth_first_word(text: str, given: dict) -> bool:
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    if len(parts) != given["num_paragraphs"] or given["nth_paragraph"] > len(parts):
        return False
    word = re.match(r"[\"']*([^\s.,?!\"']*)", parts[given["nth_paragraph"] - 1])
    return word[1].lower() == given["first_word"].lower()


def _highlights(text: str, given: dict) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", text) if part.strip("*").strip()]
    double = [part for part in re.findall(r"\*\*[^\n\*]*\*\*", text) if part[2:-2].strip()]
    return len(single) + len(double) >= given["num_highlights"]


def _json(text: str, _: dict) -> bool:
    try:
        json.loads(re.sub(r"^```(?:json|Json|JSON)?\s*|\s*```$", "", text.strip()))
    except ValueError:
        return False
    return True


def _two(text: str, _: dict) -> bool:
    parts = text.split("******")
    kept = [part.strip() for part in parts if part.strip()]
    return all(part.strip() for part in parts[1:-1]) and len(kept) == 2 and kept[0] != kept[1]


def _bullets(text: str, given: dict) -> bool:
    found = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE) + re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(found) == given["num_bullets"]


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, re.IGNORECASE))


Rule = Callable[[str, dict], bool]
RULES: dict[str, Rule] = {
    "existence": lambda text, k: all(_count(word, text) for word in k["keywords"]),
    "frequency": lambda text, k: _related(_count(k["keyword"], text), k["relation"], k["frequency"]),
    "forbidden_words": lambda text, k: not any(_count(rf"\b{word}\b", text) for word in k["forbidden_words"]),
    "letter_frequency": lambda text, k: _related(
        text.lower().count(k["letter"].lower()), k["let_relation"], k["let_frequency"]
    ),
    "response_language": lambda text, k: _language(text, k["language"]),
    "number_sentences": lambda text, k: _related(_sentences(text), k["relation"], k["num_sentences"]),
    "number_paragraphs": _paragraphs,
    "number_words": lambda text, k: _related(len(WORD.findall(text)), k["relation"], k["num_words"]),
    "nth_paragraph_first_word": _nth_first_word,
    "number_placeholders": lambda text, k: len(re.findall(r"\[.*?\]", text)) >= k["num_placeholders"],
    "postscript": lambda text, k: re.search(
        POSTSCRIPTS.get(k["postscript_marker"].strip(), rf"\s*{k['postscript_marker'].lower()}.*$"),
        text.lower(),
        re.MULTILINE,
    ),
    "number_bullet_lists": _bullets,
    "constrained_response": lambda text, _: any(answer in text.lower() for answer in ANSWERS),
    "number_highlighted_sections": _highlights,
    "multiple_sections": lambda text, k: (
        len(re.split(rf"\s?{k['section_spliter']}\s?\d+\s?", text)) - 1 >= k["num_sections"]
    ),
    "json_format": _json,
    "title": lambda text, _: any(found[2:-2].strip() for found in re.findall(r"<<[^\n]+>>", text)),
    "two_responses": _two,
    "repeat_prompt": lambda text, k: text.strip().lower().startswith(k["prompt_to_repeat"].strip().lower()),
    "end_checker": lambda text, k: text.strip().strip('"').lower().endswith(k["end_phrase"].strip().lower()),
    "capital_word_frequency": lambda text, k: _related(
        sum(word.isupper() for word in TOKEN.findall(text)), k["capital_relation"], k["capital_frequency"]
    ),
    "english_capital": lambda text, _: text.isupper() and _language(text.lower(), "en"),
    "english_lowercase": lambda text, _: text.islower() and _language(text, "en"),
    "no_comma": lambda text, _: "," not in text,
    "quotation": lambda text, _: len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"',
}
