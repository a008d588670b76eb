"""Text of a web page: trafilatura between a pass that saves formulas and code and one that takes Markdown away.

Llama 3 (section 3.1.1): "we build a custom parser that extracts the HTML content and optimizes for precision in
boilerplate removal and content recall. [...] We carefully process HTML pages with mathematics and code content to
preserve the structure of that content. We maintain the image alt attribute text since mathematical content is often
represented as pre-rendered images where the math is also provided in the alt attribute."
"""

import trafilatura
from lxml import etree
from trafilatura.utils import decode_file, load_html

from . import forums, manuals
from .code import hide_code, shown
from .formulas import write_formulas
from .numbers import numbers_shown, write_numbers
from .plain import plain

_CLASSES, _IDS = (etree.XPath(f"//@{name}", smart_strings=False) for name in ("class", "id"))
_TWICE = "\u00e2\u0080"  # of quotation marks and dashes
MAX_CHARACTERS = 20_000_000


class PageError(ValueError):
    """A page no text can be taken from; the message says why in a few words that can be counted."""


def extract(html: str | bytes, url: str | None = None, comments: bool = True) -> str:
    """The main text of a page, with formulas as TeX and code with its indentation; "" where there is none.

    comments: also what readers wrote below an article; of a known forum, all posts and nothing else. Of a manual whose
    generator is known, the body and nothing else.

    Raises:
        PageError: a page too large, or that is no HTML at all.
    """
    if len(html) > MAX_CHARACTERS:
        raise PageError("page too large")
    source = once(decode_file(html).replace("\0", ""))
    tree = load_html(source) if source.strip() else None
    if tree is None:
        raise PageError("no HTML")
    names = " ".join({*_CLASSES(tree), *_IDS(tree)})
    write_formulas(tree, names)
    hide_code(tree, names)
    numbered = write_numbers(tree)
    part = forums.posts_of(tree, names) if comments else None
    if part is None:
        part = manuals.body_of(tree, names)
    text = trafilatura.extract(tree if part is None else part, url=url, include_comments=comments)
    text = numbers_shown(text) if numbered and text else text
    return shown(plain(text)) if text else ""


def once(text: str) -> str:
    """A page whose UTF-8 was taken for Latin-1 and encoded again, as it was; any other as it is."""
    if _TWICE not in text:
        return text
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
