"""Numbers of the items of ordered lists, which a browser draws and an extractor drops. Knows lxml trees alone.

Texts point to them: "repeat step 3".
"""

import re

from lxml.html import HtmlElement

_MARK = "⦑{}⦒"
_SHOWN = re.compile(r"^([ \t]*)[-*] ⦑(\d+)⦒ ?", re.MULTILINE)
_LEFT = re.compile(r"⦑(\d+)⦒")
_OWN = re.compile(r"\(?\d+[.):]")
# an item that is a piece of text; comments, search results and breadcrumbs stand in ordered lists, too
_OTHER = (
    "div", "article", "section", "header", "footer", "aside", "nav", "form", "h1", "h2", "h3", "h4", "h5", "h6", "table"
)  # fmt: skip


def write_numbers(tree: HtmlElement) -> int:
    """Puts a mark with its number before the text of each item; returns how many there were."""
    count = 0
    for ordered in tree.iter("ol"):
        if ordered.get("type", "1") != "1" or ordered.get("reversed") is not None:
            continue
        items = ordered.findall("li")
        if not all(map(_is_text, items)):
            continue
        number = _number(ordered.get("start"), 1)
        for item in items:
            number = _number(item.get("value"), number)
            first = next((child for child in item if child.tag == "p"), None)
            holder = item if first is None or (item.text or "").strip() else first
            holder.text = _MARK.format(number) + " " + (holder.text or "").lstrip()
            number += 1
            count += 1
    return count


def _is_text(item: HtmlElement) -> bool:
    """Whether an item is more text than links, without a number of its own, and no part of a page."""
    text = item.text_content().strip()
    if _OWN.match(text) or any(True for _ in item.iter(*_OTHER)):
        return False
    return len(text) > 2 * sum(len(link.text_content().strip()) for link in item.iter("a"))


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,6}", text.strip()) else otherwise


def numbers_shown(text: str) -> str:
    """Text with `1.` for the dash before each marked item."""
    return _LEFT.sub(r"\1.", _SHOWN.sub(r"\1\2. ", text))
