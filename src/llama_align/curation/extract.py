"""Text of a web page: trafilatura between a pass that saves formulas and code and one that takes Markdown away.

Llama 3 (section 3.1.1): "we build a custom parser that extracts the HTML content and optimizes for precision in
boilerplate removal and content recall. [...] We carefully process HTML pages with mathematics and code content to
preserve the structure of that content. We maintain the image alt attribute text since mathematical content is often
represented as pre-rendered images where the math is also provided in the alt attribute."
"""

import re

import trafilatura
from lxml.html import HtmlElement
from trafilatura.utils import load_html

from .code import hide_code, shown
from .formulas import write_formulas
from .plain import plain

# a page without any of these has neither formulas nor code blocks
_WORTH_A_PASS = re.compile(r"<pre|<math|katex|mathjax|<script[^>]+math/|<img[^>]+alt|CodeMirror|blob-code|<td|view-lines|w3-code|mjx-|tex-math|<listing|<xmp", re.IGNORECASE)  # fmt: skip
MAX_CHARACTERS = 20_000_000


class PageError(ValueError):
    """A page no text can be taken from; the message says why in a few words that can be counted."""


def extract(html: str | bytes, url: str | None = None, comments: bool = True) -> str:
    """The main text of a page, with formulas as TeX and code with its indentation; "" where there is none.

    Raises:
        PageError: a page too large, or that is no HTML at all.
    """
    if len(html) > MAX_CHARACTERS:
        raise PageError("page too large")
    tree = load_html(html)
    if tree is None:
        raise PageError("no HTML")
    return from_tree(tree, url, comments)


def from_tree(tree: HtmlElement, url: str | None = None, comments: bool = True) -> str:
    """`extract` on a parsed page, which is changed."""
    write_formulas(tree)
    hide_code(tree)
    text = trafilatura.extract(tree, url=url, include_comments=comments)
    return shown(plain(text)) if text else ""
