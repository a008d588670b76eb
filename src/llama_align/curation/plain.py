"""Markdown markers removed, code and TeX and names_with_underscores left alone.

Llama 3 (section 3.1.1): "We find markdown is harmful to the performance of a model that is primarily trained on web
data compared to plain text, so we remove all markdown markers."
"""

import re

from .code import CLOSE, OPEN

# the number of what is kept stands between these two, which are no characters, while markers go: a row is seen whole
_START, _END = "\ufdd0", "\ufdd1"
# taken in this order: what stands in them is not Markdown
_KEPT = re.compile(
    rf"{OPEN}.*?{CLOSE}"  # code blocks of a page, hidden by curation.code
    r"|(?:^|\n)(?P<fence>```+|~~~+)[^\n`]*\n(?P<code>.*?)(?:\n[ \t]*(?P=fence)[ \t]*(?=\n|$)|$)"
    r"|(?P<ticks>`+)(?P<span>[^`\n]+?)(?P=ticks)(?!`)"
    r"|\\\(.+?\\\)|\\\[.+?\\\]"
    r"|\$\$.+?\$\$|(?<![\w$\\])\$(?!\s)[^$\n]*?[\\_^{}=][^$\n]*?(?<!\s)\$(?![\w$])"
    r"|(?:(?<=\n\n)|^)(?:(?: {4}|\t)[^\n]*(?:\n|$))+"  # an indented block
    r"|(?<!\]\()https?://[^\s)\]>]+",
    re.DOTALL,
)
# each with what a text must have for it to be looked for
_LINES = (
    ("#", re.compile(r"^ {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$", re.MULTILINE), r"\1"),  # headings
    (">", re.compile(r"^[ \t]*(?:>[ \t]?)+", re.MULTILINE), ""),  # quotations
    ("", re.compile(r"^[ \t]{0,3}(?:(?:\*[ \t]*){3,}|(?:_[ \t]*){3,}|(?:-[ \t]*){3,})$\n?", re.MULTILINE), ""),  # rules
    ("---", re.compile(r"^[ \t]*\|?(?:[ \t]*:?-{3,}:?[ \t]*\|)+(?:[ \t]*:?-{3,}:?)?[ \t]*$\n?", re.MULTILINE), ""),
    ("*", re.compile(r"^([ \t]*)\*[ \t]+(?=\S)", re.MULTILINE), r"\1- "),  # one sign for items; a dash is typography
)
_TABLE_ROW = re.compile(r"^[ \t]*\|(.*)\|[ \t]*$", re.MULTILINE)
_INLINE = (
    ("![", re.compile(r"!\[([^\]\n]*)\]\([^()\s]*(?:\s+\"[^\"\n]*\")?\)"), r"\1"),
    ("](", re.compile(r"(?<!\\)\[([^\[\]\n]+)\]\((?:[^()\s]|\([^()\s]*\))*(?:\s+\"[^\"\n]*\")?\)"), r"\1"),
    ("][", re.compile(r"(?<!\\)\[([^\[\]\n]+)\]\[[^\[\]\n]*\]"), r"\1"),
    ("***", re.compile(r"(?<![\\\w*])\*\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*\*(?![\w*])"), r"\1"),
    ("**", re.compile(r"(?<![\\\w*])\*\*(?=\S)([^\n]+?)(?<=\S)\*\*(?![\w*])"), r"\1"),
    ("*", re.compile(r"(?<![\\\w*])\*(?=[^\s*])([^*\n]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    ("__", re.compile(r"(?<![\\\w])__(?=\S)([^\n_]+?)(?<=\S)__(?!\w)"), r"\1"),
    ("_", re.compile(r"(?<![\\\w])_(?=[^\s_])([^_\n]+?)(?<=\S)_(?!\w)"), r"\1"),
    ("~~", re.compile(r"~~(?=\S)([^~\n]+?)(?<=\S)~~"), r"\1"),
)
_DUNDER = re.compile(r"__\w+__$")  # Python's own names, and no emphasis


def plain(text: str) -> str:
    """Text without Markdown markers: of links the words stay, of fences the code."""
    held: list[str] = []

    def hide(kept: re.Match) -> str:
        held.append(_verbatim(kept))
        before = "\n" if kept["code"] is not None and kept[0].startswith("\n") else ""
        return f"{before}{_START}{len(held) - 1}{_END}"

    text = _unmarked(_KEPT.sub(hide, text.replace(_START, "")))
    return re.sub(f"{_START}(\\d+){_END}", lambda found: held[int(found[1])], text) if held else text


def _verbatim(kept: re.Match) -> str:
    return next((part for part in (kept["code"], kept["span"]) if part is not None), kept[0])


def _unmarked(text: str) -> str:
    for needed, pattern, put in _LINES:
        if needed in text:
            text = pattern.sub(put, text)
    if "|" in text:
        text = _TABLE_ROW.sub(lambda row: "\t".join(cell.strip() for cell in row[1].split("|")), text)
    for needed, pattern, put in _INLINE:
        if needed in text:
            text = pattern.sub(lambda found, put=put: found[0] if _DUNDER.match(found[0]) else found.expand(put), text)
    return text
