"""Of a manual whose generator is known the body is taken, all of it, and nothing beside it."""

import pytest

pytest.importorskip("trafilatura", reason="needs the extra 'curation'")

from lxml import html

from llama_align.curation.extract import extract
from llama_align.curation.manuals import BODIES, body_of

from .test_text import prose

MENU = "<ul>" + "".join(f"<li><a href='/{n}'>Chapter {n} of the whole manual</a></li>" for n in range(40)) + "</ul>"
BODY = (
    "<h1>On bridges<a class='headerlink' href='#x'>¶</a></h1><p>{}</p><pre>  x = 1\n\n  y = 2</pre><p>Note.</p>"
    "<div id='cookies' class='sidebar related'><p>Cookies are sweet.</p></div>"
)
PAGES = {
    "Sphinx": "<div class='body' role='main'>{}</div>",
    "MkDocs": "<article class='md-content__inner md-typeset'><nav>{menu}</nav>{}</article>",
    "Docusaurus": "<div class='theme-doc-markdown markdown'>{}</div>",
    "mdBook": "<div id='mdbook-content' class='content'><main>{}</main></div>",
    "Docsy": "<main><div class='td-content'>{}</div></main>",
    "MediaWiki": "<div class='mw-parser-output'><div id='toc'>{menu}</div>{}</div>",
}


@pytest.mark.parametrize("name", PAGES)
def test_the_body_is_all_that_is_left(name):
    body = PAGES[name].replace("{menu}", MENU).format(BODY.format(prose(60)))
    text = extract(f"<html><body><div>{MENU}</div>{body}<div>{MENU}</div></body></html>")
    assert "of the whole manual" not in text
    assert "¶" not in text
    assert "\n  x = 1\n\n  y = 2\n" in text
    assert "Note." in text
    assert "Cookies are sweet." in text
    assert text.count("On bridges") == 1


@pytest.mark.parametrize(
    "page",
    [
        f"<div class='post' itemprop='articleBody'>{prose(60)}</div>",  # of any article
        f"<div class='td-content'>{prose(60)}</div><div class='td-content'>{prose(60)}</div>",  # which of the two?
        "<div class='td-content'>Too short.</div>",
        f"<div id='content'><main>{prose(60)}</main></div><div class='chapter'>{prose(60)}</div>",
    ],
)
def test_of_other_pages_nothing_is_taken(page):
    assert body_of(html.document_fromstring(f"<html><body>{page}</body></html>"), page) is None


def test_every_mark_is_a_path():
    tree = html.document_fromstring("<html><body><p>x</p></body></html>")
    assert [tree.xpath(f".//{path}") for _, path in BODIES] == [[]] * len(BODIES)
