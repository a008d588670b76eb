"""The body of a page of documentation, found by the marks of the software that wrote it. Knows lxml trees alone.

Such a page is half menus, and its body is short paragraphs between listings, which an extractor built for articles
takes for menus too. The names are those that the generators' own templates give.
"""

from lxml import html
from lxml.html import HtmlElement


def _has(tag: str, name: str) -> str:
    return f"{tag}[contains(concat(' ', normalize-space(@class), ' '), ' {name} ')]"


BODIES = (
    "div[@role='main' and @class='document']/div[@itemprop='articleBody']",  # Sphinx: Read the Docs
    _has("article", "bd-article"),  # Sphinx: PyData
    "article[@role='main' and @id='furo-main-content']",  # Sphinx: furo
    "div[@role='main' and @class='body']",  # Sphinx: its own
    _has("article", "md-content__inner"),  # MkDocs Material
    _has("div", "theme-doc-markdown"),  # Docusaurus
    _has("div", "vp-doc"),  # VitePress
    _has("div", "theme-default-content"),  # VuePress
    _has("div", "sl-markdown-content"),  # Starlight
    _has("div", "td-content"),  # Docsy
    "div[(@id='content' or @id='mdbook-content') and @class='content']/main",  # mdBook
    _has("article", "main-page-content"),  # MDN
    _has("div", "devsite-article-body"),  # Google
    "div[@id='main-col-body']",  # AWS
    _has("article", "markdown-body"),  # GitHub
    _has("div", "mw-parser-output"),  # MediaWiki
)
# in the source of a page that may have such a body
MARKS = (
    "articleBody", "bd-article", 'role="main"', "role='main'", "md-content__inner", "theme-doc-markdown", "vp-doc",
    "theme-default-content", "sl-markdown-content", "td-content", 'id="content"', "mdbook-content",
    "main-page-content", "devsite-article-body", "main-col-body", "markdown-body", "mw-parser-output",
)  # fmt: skip
_ORNAMENTS = " | ".join(
    f".//{path}"
    for path in (
        "nav", "button", "footer", "div[@id='toc']", "*[@role='navigation']",
        "*[@aria-hidden='true' and not(self::svg)]",
        *(_has("a", name) for name in ("headerlink", "hash-link", "header-anchor", "anchor", "md-content__button")),
        *(_has("*", name) for name in ("mw-editsection", "breadcrumbs", "prev-next-footer", "page-info")),
    )
)  # fmt: skip
LEAST = 200  # characters of a body


def body_of(tree: HtmlElement) -> HtmlElement | None:
    """A page of nothing but the body; None where the page is no known documentation."""
    for path in BODIES:
        found = tree.xpath(f".//{path}")
        if len(found) == 1 and len(found[0].text_content()) >= LEAST:
            break
    else:
        return None
    (body,) = found
    for ornament in body.xpath(_ORNAMENTS):
        if ornament.getparent() is not None:
            ornament.drop_tree()
    page = html.document_fromstring("<html><body><article></article></body></html>")
    body.tail, body.tag = None, "div"
    page.find(".//article").append(body)
    return page
