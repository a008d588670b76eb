"""Text of a web page: trafilatura between a pass that saves formulas and code and one that takes Markdown away.

Llama 3 (section 3.1.1): "we build a custom parser that extracts the HTML content and optimizes for precision in
boilerplate removal and content recall. [...] We carefully process HTML pages with mathematics and code content to
preserve the structure of that content. We maintain the image alt attribute text since mathematical content is often
represented as pre-rendered images where the math is also provided in the alt attribute."
"""

import trafilatura
from trafilatura.utils import decode_file, load_html

from . import forums, manuals
from .code import hide_code, shown
from .formulas import write_formulas
from .plain import plain

# a page whose source has none of these has neither formulas nor code blocks
_WORTH_A_PASS = (
    "<pre", "<listing", "<xmp", "math", "katex", "codemirror", "blob-code", "view-lines", "w3-code", "mjx-", "latex",
    "mimetex", "cht=tx", "hljs", "gutter", 'alt="\\', "alt='\\",
)  # fmt: skip
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
    source = decode_file(html).replace("\0", "")
    tree = load_html(source) if source.strip() else None
    if tree is None:
        raise PageError("no HTML")
    lowered = source.lower()
    if any(mark in lowered for mark in _WORTH_A_PASS):
        write_formulas(tree)
        hide_code(tree)
    part = forums.posts_of(tree) if comments and any(mark in source for mark in forums.MARKS) else None
    if part is None and any(mark in source for mark in manuals.MARKS):
        part = manuals.body_of(tree)
    text = trafilatura.extract(tree if part is None else part, url=url, include_comments=comments)
    return shown(plain(text)) if text else ""
