"""Rule-based cleaning of answers: emoji, exclamation marks, phrases that are said too often. Functions of texts.

Llama 3 (section 4.2.3): "we observed a number of undesirable patterns common in our data, such as excessive use of
emojis or exclamation points. Therefore, we implement a series of rule-based data removal and modification strategies
[...]. For example, to mitigate overly-apologetic tonal issues, we identify overused phrases (such as "I'm sorry" or "I
apologize") and carefully balance the proportion of such samples in our dataset."
"""

import re
from collections.abc import Callable, Sequence

# what is shown as a picture by default (Unicode's Emoji_Presentation), not every sign that can be: check marks stay
_PICTURE = (
    "[\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd"
    "\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-"
    "\u2755\u2757\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55\U0001f004\U0001f0cf\U0001f18e\U0001f191-\U0001f19a"
    "\U0001f1e6-\U0001f1ff\U0001f201\U0001f21a\U0001f22f\U0001f232-\U0001f236\U0001f238-\U0001f23a\U0001f250\U0001f251"
    "\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7eb\U0001f900-\U0001f9ff\U0001fa70-\U0001faff]"
)
# a picture, or a sign that asks to be one, with what modifies it and what is joined to it
_ONE = rf"(?:{_PICTURE}|[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299](?=\ufe0f))"
_ONE += r"[\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
EMOJI = re.compile(rf"{_ONE}(?:\u200d{_ONE})*")
_AT_START = re.compile(rf"(?m)^(?:{EMOJI.pattern}[ \t]*)+")
_ELSEWHERE = re.compile(rf"(?:[ \t]*{EMOJI.pattern})+")
_KEYCAP = re.compile(r"([0-9#*])\ufe0f?\u20e3")
_SHOUT = re.compile(r"(?<=\S)[!\uff01]+(?=[\s\"')\]\u201d\u2019*_]|$)")
_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.DOTALL)
_QUOTES = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'"})
APOLOGIES = ("I'm sorry", "I am sorry", "I apologize", "I apologise", "my apologies")


def in_prose(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` of what stands outside code, fenced or between backticks."""
    parts = _CODE.split(text)
    return "".join(change(part) if number % 2 == 0 else part for number, part in enumerate(parts))


def has_emoji(text: str) -> bool:
    """Whether there is one outside code."""
    return any(_KEYCAP.search(part) or EMOJI.search(part) for part in _CODE.split(text)[::2])


def without_emoji(text: str) -> str:
    """The text without emoji and the space before them; of a digit in a key the digit stays."""

    def remove(part: str) -> str:
        return _ELSEWHERE.sub("", _AT_START.sub("", _KEYCAP.sub(r"\1", part)))

    return in_prose(text, remove)


def calmer(text: str, most: int) -> str:
    """The text with its first `most` exclamation marks, several in a row as one; the others are full stops.

    Marks are those that end a word outside code. After a question mark one is left out.
    """
    left = most

    def calm(found: re.Match) -> str:
        nonlocal left
        left -= 1
        return "!" if left >= 0 else "" if found.string[found.start() - 1] in "?.\uff1f" else "."

    return in_prose(text, lambda part: _SHOUT.sub(calm, part))


def says(text: str, phrases: Sequence[str]) -> bool:
    """Whether any of the phrases is in the text as whole words, whatever their case and kind of apostrophe."""
    plain = " ".join(text.translate(_QUOTES).casefold().split())
    wanted = (" ".join(phrase.translate(_QUOTES).casefold().split()) for phrase in phrases)
    return any(re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", plain) for phrase in wanted)


def allowed(without: int, share: float) -> int:
    """Of how many rows, added to `without` others, at most the share is of the sum; a share of 1 allows any number."""
    return 1 << 62 if share >= 1 else int(share * without / (1 - share) + 1e-9)
