"""Code blocks of a page, whatever coloured them, carried through an extractor with every space and line end.

An extractor trims and joins lines. Before it, white space within code becomes visible signs between two marks; after
it, the signs become white space again. Knows lxml trees; nothing of extraction.
"""

import re

from lxml.html import HtmlElement

OPEN, CLOSE = "⦗⦅", "⦆⦘"
SIGNS = {" ": "␣", "\n": "⏎", "\t": "␉"}
ESCAPE = "␛"
_HIDE = re.compile(r"^ | (?= )|(?<= ) | $|[\n\t␣⏎␉␛]", re.MULTILINE)
_SHOWN = re.compile(f"{ESCAPE}(.)|[␣⏎␉]", re.DOTALL)
_BLOCK = re.compile(rf"\n?[ \t]*{OPEN}(.*?){CLOSE}[ \t]*\n?", re.DOTALL)
BACK = {sign: space for space, sign in SIGNS.items()}

_GUTTER = re.compile(
    r"(?:^|[\s_-])(?:linenos?|linenodiv|lineno|gutter|line-?numbers?(?:-rows)?|blob-num|hljs-ln-numbers?|ln-num|"
    r"rouge-gutter|lnt|copy(?:-?btn|-?button|-code)?(?:-[a-z]+)*|toolbar|code-?header|CodeMirror-gutter[\w-]*)(?:$|\s)",
    re.IGNORECASE,
)
_LINE = re.compile(
    r"(?:^|\s)(?:line|token-line|code-?line|react-code-line[\w-]*|CodeMirror-line|view-line|cl|L\d)(?:$|\s)"
)
_CONTAINERS = {"table", "thead", "tbody", "tr", "ol", "ul"}
_BLOCK_TAGS = {"div", "li", "p", "pre"} | _CONTAINERS
# tables and lists that show code line by line, without a pre of their own or with one for the numbers
_TABLES = (
    ".//table[contains(@class, 'highlight') or contains(@class, 'rouge-table') or contains(@class, 'lntable') or "
    "contains(@class, 'hljs-ln') or contains(@class, 'blob') or contains(@class, 'js-file-line') or "
    "(. | tbody)/tr/td[contains(@class, 'blob-code')] or "
    "((. | tbody)/tr/td[contains(@class, 'gutter')] and (. | tbody)/tr/td[contains(@class, 'code')])]"
)
_DIVS = ".//div[contains(@class, 'CodeMirror-code') or contains(@class, 'view-lines') or contains(@class, 'w3-code')]"
_ALL = f"{_TABLES} | {_DIVS} | .//pre | .//listing | .//xmp"
_CLASSES = (
    "highlight", "rouge-table", "lntable", "hljs-ln", "blob", "js-file-line", "gutter", "CodeMirror-code", "view-lines",
    "w3-code",
)  # fmt: skip


def hide_code(tree: HtmlElement, names: str) -> int:
    """Replaces each code block by one line with visible white space; returns how many there were.

    names: classes of the page.
    """
    count = 0
    drawn = any(name in names for name in _CLASSES)
    for block in tree.xpath(_ALL) if drawn else list(tree.iter("pre", "listing", "xmp")):  # the outermost comes first
        if not any(parent is tree for parent in block.iterancestors()):
            continue  # part of a block that was taken as a whole
        text = code_text(block)
        if not text.strip():
            continue
        _become(block, hidden(text))
        count += 1
    return count


def _become(block: HtmlElement, text: str) -> None:
    tail = block.tail
    block.clear()
    block.tail, block.tag = tail, "pre"
    code = block.makeelement("code")
    code.text = text
    block.append(code)
    if (around := block.getparent()) is not None and around.tag == "figure":
        around.tag = "div"  # of a figure an extractor keeps the caption alone, of another block not even that
        for caption in around.findall("figcaption"):
            caption.tag = "p"


def code_text(block: HtmlElement) -> str:
    """The code as a reader sees it: without line numbers and buttons, its lines apart, its indentation kept."""
    for cell in block.iter("td"):
        code = cell.find(".//pre")
        alone = code is not None and block.tag == "table" and len(block.findall(".//tr")) == 1
        if alone and not _GUTTER.search(cell.get("class") or "") and (text := _trimmed(_walk(code))):
            return text
    return _trimmed(_walk(block))


def _walk(element: HtmlElement) -> str:
    out = "" if element.tag in _CONTAINERS else element.text or ""
    for child in element:
        tail = child.tail or ""
        if element.tag in _CONTAINERS or _is_block(child):
            tail = tail if tail.strip() else ""  # the page's own layout, no part of the code
        if _is_ornament(child):
            out += tail
        elif child.tag == "br":
            out += "\n" + tail.removeprefix("\n")
        elif _is_block(child):
            before = out if out.strip() else ""
            before += "\n" if before and not before.endswith("\n") else ""
            out = before + _walk(child).removesuffix("\n") + "\n" + tail
        else:
            out += _walk(child) + tail
    return out


def _is_ornament(child: HtmlElement) -> bool:
    """Line numbers, buttons and what else stands beside the code."""
    if not isinstance(child.tag, str) or child.tag in ("button", "style", "script", "svg"):
        return True
    return bool(
        _GUTTER.search(child.get("class") or "") or child.get("data-line-number") or child.get("aria-hidden") == "true"
    )


def _is_block(child: HtmlElement) -> bool:
    return child.tag in _BLOCK_TAGS or (
        isinstance(child.tag, str) and child.tag != "span" and bool(_LINE.search(child.get("class") or ""))
    )


def _trimmed(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ").replace("\u200b", "")
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines)


def hidden(text: str) -> str:
    """Code on one line between two marks, its white space visible."""
    return OPEN + _HIDE.sub(lambda found: _sign(found[0]), text) + CLOSE


def _sign(character: str) -> str:
    return SIGNS.get(character, ESCAPE + character)


def shown(text: str) -> str:
    """Text with its code blocks as they were, each on lines of its own."""

    def block(match: re.Match) -> str:
        return "\n" + _SHOWN.sub(lambda found: found[1] or BACK[found[0]], match[1]) + "\n"

    return _BLOCK.sub(block, text).strip("\n") if OPEN in text else text
