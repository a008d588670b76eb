"""Markdown as HTML that can neither run nor fetch anything: no HTML of the writer's, no link, picture or style."""

from functools import cache

from markdown_it import MarkdownIt
from markupsafe import Markup

OFF = ("html_block", "html_inline", "image", "link", "autolink", "reference", "entity")


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table").disable(OFF)


def markdown(text: str) -> Markup:
    """Headings, lists, tables, emphasis and code as HTML, everything else as the text it is."""
    parser = _parser()
    tokens = parser.parse(text)
    for token in tokens:
        token.attrs.pop("style", None)  # of columns; the page allows none
    return Markup(parser.renderer.render(tokens, parser.options, {}))
