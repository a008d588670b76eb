"""Formulas and code of 70 hand-made pages, Markdown that goes and names that stay, pages that are none."""

import html
import json
from pathlib import Path

import pytest

pytest.importorskip("trafilatura", reason="needs the extra 'curation'")

from llama_align.curation.code import hidden, shown
from llama_align.curation.extract import PageError, extract
from llama_align.curation.plain import plain

PAGES = Path(__file__).parent / "pages"
EXPECTED = [json.loads(line) for line in (PAGES / "expected.jsonl").read_text("utf-8").splitlines()]


def extracted(page: str) -> str:
    return extract((PAGES / f"{page}.html").read_bytes())


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_there_are_at_least_sixty_pages_each_with_what_must_be_kept():
    assert len(EXPECTED) == len(list(PAGES.glob("*.html"))) >= 60
    assert all(row["formulas"] or row["code"] for row in EXPECTED)


def test_formulas_are_kept_as_tex_once_each():
    kept, asked, missing = 0, 0, []
    for row in EXPECTED:
        text = squeezed(extracted(row["page"])) if row["formulas"] else ""
        for formula in row["formulas"]:
            asked += 1
            found = text.count(squeezed(formula))
            kept += found == 1
            if found != 1:
                missing.append((row["page"], formula, found))
    assert kept >= 0.95 * asked, missing


@pytest.mark.parametrize("row", [row for row in EXPECTED if row["code"]], ids=lambda row: row["page"])
def test_code_is_kept_with_every_space_and_blank_line(row):
    text = extracted(row["page"])
    for code in row["code"]:
        assert f"\n{code}\n" in f"\n{text}\n"


@pytest.mark.parametrize("page", ["katex-inline", "mathjax2-rendered", "pygments-table", "prism", "docusaurus"])
def test_what_was_drawn_beside_a_formula_or_code_is_gone(page):
    text = extracted(page)
    assert "z=9" not in squeezed(text)
    assert "q=7" not in squeezed(text)
    assert "Copy" not in text
    assert "1\n2\n3" not in text


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("# Title #\n\ntext", "Title\n\ntext"),
        ("a **bold** and *soft* and __very strong__ and _thin_ word", "a bold and soft and very strong and thin word"),
        ("see [the page](http://a.b/c_(d)) now", "see the page now"),
        ("![alt text](x.png)", "alt text"),
        ("> quoted\n> twice", "quoted\ntwice"),
        ("```python\nx = a_b_c * d\n# no heading\n```\nafter", "x = a_b_c * d\n# no heading\nafter"),
        ("call `__init__(**kw)` first", "call __init__(**kw) first"),
        ("snake_case_name and __init__ and 2 * 3 * 4", "snake_case_name and __init__ and 2 * 3 * 4"),
        (r"\(a_1*b_1*c\) and $x_1 *y* z_2$", r"\(a_1*b_1*c\) and $x_1 *y* z_2$"),
        ("it costs $5 or *more* than $6", "it costs $5 or more than $6"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a\tb\n1\t2"),
        ("* one\n* two\n\n***\n\nend", "- one\n- two\n\n\nend"),
        ("text\n\n    code_with *stars*\n\nmore", "text\n\n    code_with *stars*\n\nmore"),
        ("http://a.b/x_y_z and ~~gone~~", "http://a.b/x_y_z and gone"),
        ("| a | `b_c` | d |\n|---|---|---|\n| 1 | http://a.b/_x_ | 3 |", "a\tb_c\td\n1\thttp://a.b/_x_\t3"),
        (
            "see [http://a.b/_x_](<http://a.b/c>) or **call `f(**kw)` twice**",
            "see http://a.b/_x_ or call f(**kw) twice",
        ),
        ("5 > 3 and a#b", "5 > 3 and a#b"),
    ],
)
def test_markdown_markers_go_and_nothing_else(marked, expected):
    assert plain(marked) == expected
    assert plain(plain(marked)) in (expected, plain(expected))


@pytest.mark.parametrize("code", ["a\n\tb\n\n  c  d", " lead", "⏎ and ␣ and ␛ are text", "x\n\n\n\ny", "tail  \nz"])
def test_hidden_code_comes_back_as_it_was(code):
    line = hidden(code)
    assert "\n" not in line
    assert "  " not in line
    assert shown(f"before\n{line}\nafter") == f"before\n{code}\nafter"


def test_a_page_in_bytes_of_another_encoding_is_read():
    page = (PAGES / "pre-code.html").read_text("utf-8").replace("utf-8", "iso-8859-1").replace("pencil", "crayon é")
    assert "crayon é" in extract(page.encode("iso-8859-1"))


def test_a_page_that_was_encoded_twice_is_read_as_it_was():
    page = (
        "<html><body><article><p>It’s a page – with “quotes”, in one paragraph of its own.</p></article></body></html>"
    )
    assert "It’s a page – with “quotes”" in extract(page.encode().decode("latin-1").encode())
    assert "â alone, and Ω" in extract(page.replace("It’s", "â\u0080 alone, and Ω"))


LISTS = {
    "<ol><li>First boil it.</li><li><p>Then <b>eat</b> it.</p></li></ol>": ["1. First boil it.", "2. Then eat it."],
    "<ol start='4'><li>Boil it well.</li><li value='9'>Eat it up.</li></ol>": ["4. Boil it well.", "9. Eat it up."],
    "<ol><li>1) Boil it well.</li><li>2) Eat it up.</li></ol>": ["- 1) Boil it well.", "- 2) Eat it up."],
    "<ol type='a'><li>Boil it well.</li></ol><ul><li>Eat it up.</li></ul>": ["- Boil it well.", "- Eat it up."],
    "<ol><li><div>Boil it well.</div></li></ol>": ["- Boil it well."],
}


@pytest.mark.parametrize("page", LISTS)
def test_items_of_ordered_lists_keep_their_numbers(page):
    text = "One paragraph that says what is to be done, so that there is an article around the list. " * 3
    found = extract(f"<html><body><article><p>{text}</p>{page}<p>{text}</p></article></body></html>").splitlines()
    assert found == [text.strip(), *LISTS[page], text.strip()]


@pytest.mark.parametrize(("page", "reason"), [("", "no HTML"), ("a" * 20_000_001, "page too large")])
def test_what_is_no_page_is_refused_by_name(page, reason):
    with pytest.raises(PageError, match=reason):
        extract(page)


def test_a_page_without_text_gives_none():
    assert extract("<html><body><script>var text = 1</script><img src='x.png' alt='a tree'></body></html>") == ""


FORUMS = {
    "xenforo": "<article class='message-body js-selectToQuote'><div class='bbWrapper'>{}</div></article>",
    "vbulletin": "<div class='postcontent' id='post_message_7'>{}</div>",
    "phpbb": "<div class='postbody'><h3>Re</h3><div class='content'>{}</div></div>",
    "stackexchange": "<div class='s-prose js-post-body' itemprop='text'>{}</div>",
}


@pytest.mark.parametrize("engine", FORUMS)
def test_all_posts_of_a_forum_are_kept_and_nothing_else(engine):
    posts = [f"<p>Post {n} says {n * 7} things.</p><pre>if {n}:\n    go()</pre>" for n in range(5)]
    menu = "".join(f"<li><a href='/t{n}'>Another thread about nothing, number {n}</a></li>" for n in range(40))
    page = f"<html><body><ul>{menu}</ul><h1>How to go</h1>{''.join(map(FORUMS[engine].format, posts))}</body></html>"
    text = extract(page)
    assert text.startswith("How to go")
    assert all(f"Post {n} says {n * 7} things.\nif {n}:\n    go()" in text for n in range(5))
    assert "Another thread" not in text


def test_posts_that_a_page_carries_as_json_are_read():
    topic = {"post_stream": {"posts": [{"cooked": "<p>First of all.</p>"}, {"cooked": "<p>And <b>then</b> this.</p>"}]}}
    loaded = html.escape(json.dumps({"topic_12": json.dumps(topic)}))
    text = extract(f"<html><body><div id='data-preloaded' data-preloaded=\"{loaded}\"></div></body></html>")
    assert text == "First of all.\nAnd then this."
    assert extract("<html><body><div data-preloaded='{'></div><p>Here I am.</p></body></html>") == "Here I am."
