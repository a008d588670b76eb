"""The pages in Debian's chromium, and a server that is killed. Every request off 127.0.0.1 is a failure."""

import socket

import pytest

from llama_align.people.batch import Item
from llama_align.people.export import preferences
from llama_align.people.store import Store
from tests.conftest import CHROMIUM, FLAGS

from .conftest import Server, events_of, item, make_batch
from .injections import injections

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn", reason="the extra people is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium to look at the pages with")
STRINGS = injections()
BLOCKS = ("p", "pre", "code", "code class", "h1", "h2", "ul", "ol", "li", "blockquote", "hr")
MADE = {*BLOCKS, "strong", "em", "br", "table", "thead", "tbody", "tr", "th", "td"}
EACH = 10  # strings in an item: the messages and both answers


def with_strings() -> list[Item]:
    items = []
    for start in range(0, len(STRINGS), EACH):
        texts = STRINGS[start : start + EACH]
        texts += [f"more {n}" for n in range(EACH - len(texts))]
        prompt = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts[2:])]
        items.append(item(f"x{start}", texts=texts[:2], prompt=[*prompt, {"role": "user", "content": "?"}]))
    return items


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two servers, started at once: one to be killed, one with two hundred strings."""
    items = [item("a", people=2), item("b", "safety", people=2), item("c", people=2), item("d", people=2)]
    folders = [tmp_path_factory.mktemp(name) for name in ("people", "strings")]
    make_batch(folders[0], items)
    make_batch(folders[1], with_strings())
    made = [Server(folder, free_port(), "--people", "ada", "ben", started=False) for folder in folders]
    for server in made:
        server.wait()
    yield made
    for server in made:
        server.kill()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def visit(browser):
    """Comes in by a personal link; what the page did that none may do is checked at the end."""
    contexts, faults = [], []

    def call(server: Server, name: str, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: faults.append(request.url) if "//127.0.0.1:" not in request.url else None)
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        page.goto(server.link(name))
        page.wait_for_selector("#work, .manager, .note h1")
        return page

    yield call
    for context in contexts:
        context.close()
    assert faults == []


def where(page) -> str:
    return page.locator("#work input[name=item]").input_value()


def sent(page, before: str) -> None:
    """Waits for the next item."""
    page.wait_for_selector(f"#work input[value='{before}']", state="detached")
    page.wait_for_selector("#work, .note h1")


def test_by_keys_alone_two_at_once_and_the_server_killed_between(servers, visit):
    server, _ = servers
    ada, ben = visit(server, "ada"), visit(server, "ben")
    first = where(ada)
    assert first == where(ben), "the first item is for both of them"
    ada.keyboard.press("Enter")
    assert "Choose one of the eight grades first" in ada.wait_for_selector("#said:not([hidden])").text_content()
    ada.keyboard.press("7")
    ada.keyboard.press("e")
    ada.keyboard.type(" Improved.")
    right = ada.locator("#right .as-text").text_content()
    ben.keyboard.press("1")
    ben.keyboard.press("Enter")
    sent(ben, first)
    ada.wait_for_timeout(600)  # the draft goes to the server
    kept = events_of(server.folder)
    server.kill()
    ada.keyboard.type(" More.")
    ada.keyboard.press("Control+Enter")
    ada.locator("#said", has_text="does not answer").wait_for()
    assert ada.locator("#edited").input_value() == f"{right} Improved. More."
    server.start()
    server.wait()
    assert events_of(server.folder) == kept
    ada.reload()
    assert where(ada) == first
    assert ada.locator("#edited").input_value() == f"{right} Improved. More."
    assert ada.locator("input[name=choice]:checked").input_value() == "7"
    ada.keyboard.press("Enter")
    sent(ada, first)
    got = next(one for one in preferences(Store(server.folder)) if one.annotator == "ada")
    assert (got.chosen, got.edited, got.grade) == (right, f"{right} Improved. More.", "better")
    for page in (ada, ben):
        while where(page) != "b":
            here = where(page)
            page.keyboard.press("5")
            page.keyboard.press("Enter")
            sent(page, here)
        page.keyboard.press("8")
        page.keyboard.press("a")
        page.keyboard.press("l")
        page.keyboard.press("l")
        page.keyboard.press("Enter")
        sent(page, "b")
    safe = [one for one in preferences(Store(server.folder)) if one.objective == "safety"]
    assert [(one.chosen_is_safe, one.rejected_is_safe) for one in safe] == [(False, True)] * 2
    skipped = where(ada)
    ada.keyboard.press("s")
    ada.keyboard.press("3")
    ada.keyboard.press("Enter")
    sent(ada, skipped)
    ada.wait_for_selector("#work, .note h1")
    ada.keyboard.press("u")
    ada.wait_for_selector(f"#work input[value='{skipped}']", state="attached")
    ada.keyboard.press("f")
    ada.keyboard.type("look at this")
    ada.keyboard.press("Control+Enter")
    ada.wait_for_selector("text=flagged")
    manager = visit(server, "manager")
    assert "look at this" in manager.locator("main").text_content()
    assert len({(e["item"], e["person"]) for e in events_of(server.folder) if e["kind"] == "answered"}) == 4


def test_two_hundred_strings_are_shown_as_the_text_they_are(servers, visit):
    assert len(STRINGS) >= 200
    _, server = servers
    page = visit(server, "ada")
    for one in with_strings():
        page.wait_for_selector(f"#work input[value='{one.id}']", state="attached")
        shown = page.evaluate("[...document.querySelectorAll('.as-text')].map(e => e.textContent)")
        texts = [message["content"].strip() for message in one.prompt]  # as models are told
        answers = [candidate.answer for candidate in one.answers]
        # HTML has no carriage return of its own
        plain = [text.replace("\r\n", "\n") for text in (*texts, *answers)]
        assert sorted(shown) == sorted(plain)
        page.keyboard.press("m")
        made = page.evaluate(
            "[...document.querySelectorAll('.as-markdown *')].map(e => [e.localName, ...e.getAttributeNames()])"
        )
        assert {" ".join(one) for one in made} <= MADE
        page.keyboard.press("m")
        page.keyboard.press("4")
        page.keyboard.press("e")
        page.wait_for_selector("#edited:focus")
        assert page.locator("#edited").input_value() in plain
        page.keyboard.press("Control+Enter")
        sent(page, one.id)
    visit(server, "manager")


@pytest.mark.parametrize("settings", [{"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}])
def test_nothing_is_wider_than_the_window_in_light_and_dark(servers, visit, settings):
    for name, server in (("ben", servers[1]), ("manager", servers[0])):
        page = visit(server, name, **settings)
        over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(over) == 0
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(20, 22, 26)") == ("color_scheme" in settings)
