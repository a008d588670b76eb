"""The body of a page of documentation, found by the marks of the software that wrote it. Knows lxml trees alone.

Such a page is half menus, and its body is short paragraphs between listings, which an extractor built for articles
takes for menus too. The names are those that the generators' own templates give.
"""

from lxml import html
from lxml.html import HtmlElement


def _has(tag: str, name: str) -> str:
    return f"{tag}[contains(concat(' ', normalize-space(@class), ' '), ' {name} ')]"


# what the classes and ids of a page have that may have such a body, and the body
BODIES = (
    ("document", "div[@role='main' and @class='document']/div[@itemprop='articleBody']"),  # Sphinx: Read the Docs
    ("bd-article", _has("article", "bd-article")),  # Sphinx: PyData
    ("furo-main-content", "article[@role='main' and @id='furo-main-content']"),  # Sphinx: furo
    ("body", "div[@role='main' and @class='body']"),  # Sphinx: its own
    ("md-content__inner", _has("article", "md-content__inner")),  # MkDocs Material
    ("theme-doc-markdown", _has("div", "theme-doc-markdown")),  # Docusaurus
    ("vp-doc", _has("div", "vp-doc")),  # VitePress
    ("theme-default-content", _has("div", "theme-default-content")),  # VuePress
    ("sl-markdown-content", _has("div", "sl-markdown-content")),  # Starlight
    ("td-content", _has("div", "td-content")),  # Docsy
    ("content", "div[(@id='content' or @id='mdbook-content') and @class='content']/main"),  # mdBook
    ("main-page-content", _has("article", "main-page-content")),  # MDN
    ("devsite-article-body", _has("div", "devsite-article-body")),  # Google
    ("main-col-body", "div[@id='main-col-body']"),  # AWS
    ("markdown-body", _has("article", "markdown-body")),  # GitHub
    ("mw-parser-output", _has("div", "mw-parser-output")),  # MediaWiki
)
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


def body_of(tree: HtmlElement, names: str) -> HtmlElement | None:
    """A page of nothing but the body; None where the page is no known documentation. names: its classes and ids."""
    for mark, path in BODIES:
        found = tree.xpath(f".//{path}") if mark in names else ()
        if len(found) == 1 and len(found[0].text_content()) >= LEAST:
            break
    else:
        return None
    (body,) = found
    for ornament in body.xpath(_ORNAMENTS):
        if ornament.getparent() is not None:
            ornament.drop_tree()
    for element in body.iter("*"):  # by such names an extractor drops boxes of warnings and chapters on cookies
        for name in ("class", "id"):
            element.attrib.pop(name, None)
    page = html.document_fromstring("<html><body><article></article></body></html>")
    body.tail, body.tag = None, "div"
    page.find(".//article").append(body)
    return page
