"""Who gets in, and what is refused before any route."""

import re
import stat

import pytest

from llama_align.people import security
from llama_align.people.command import _hosts
from llama_align.people.prose import markdown
from llama_align.people.security import ANNOTATOR, MANAGER, Guard, Signer, read_key
from llama_align.recipe import RecipeError

from .conftest import HOST, Client, answer, fields, make_batch

routing = pytest.importorskip("starlette.routing", reason="the extra people is not installed")


def posts(app) -> list[str]:
    return [route.path for route in app.routes if isinstance(route, routing.Route) and "POST" in route.methods]


FOREIGN = {
    "no origin": {"origin": None},
    "null": {"origin": "null"},
    "another site": {"origin": "https://evil.example"},
    "another port": {"origin": "http://127.0.0.1:9999"},
    "a name that begins alike": {"origin": f"http://{HOST}.evil.example"},
    "another host": {"host": "evil.example", "origin": "http://evil.example"},
    "no host": {"host": None},
    "the host without its port": {"host": "127.0.0.1", "origin": "http://127.0.0.1"},
}


@pytest.mark.parametrize("how", FOREIGN)
def test_every_post_refuses_what_no_page_of_ours_sends(site, tmp_path, how):
    place = site(make_batch(tmp_path))
    ada, manager = place.person("ada"), place.manager()
    before = len(place.store.works())
    paths = posts(place.app)
    assert len(paths) == 12, "join, eight of annotators, three of managers"
    for path in paths:
        client = manager if path.startswith("/manager") else ada
        reply = client.post(path, fields(ada.get("/").text) | {"choice": "1", "name": "ada"}, **FOREIGN[how])
        assert reply.status in (403, 421), path
    assert len(place.store.works()) == before
    assert answer(ada).status == 303, "ours gets through"


def test_every_post_wants_the_cookie_of_its_role(site, tmp_path):
    place = site(make_batch(tmp_path), local=False)
    forged = {"annotator": "ada." + "A" * 32, "manager": place.signer.cookie(ANNOTATOR, "manager")}
    for cookies in ({}, forged):
        for path in posts(place.app):
            assert Client(place.app, dict(cookies)).post(path, {"name": "ada"}).status in (401, 422), path
    assert place.store.works() == []
    assert Client(place.app).get("/manager").status == 401


def test_a_get_changes_nothing_and_a_foreign_host_reads_nothing(site, tmp_path):
    place = site(make_batch(tmp_path))
    ada = place.person("ada")
    for path in posts(place.app):
        assert ada.get(path).status == 405
    assert ada.get("/", host="evil.example").status == 421
    assert Client(place.app)("PUT", "/", origin=f"http://{HOST}").status == 405


def test_links_let_in_their_own_name_and_role_alone(site, tmp_path):
    place = site(make_batch(tmp_path), local=False)
    link = place.signer.link(ANNOTATOR, "ada")
    got = Client(place.app)
    reply = got.get(link)
    cookie = reply.header("set-cookie")
    assert (reply.status, "HttpOnly" in cookie, "SameSite=strict" in cookie) == (200, True, True)
    assert "Come in" not in got.get("/").text
    wrong = [link.replace("/ada/", "/ben/"), link.replace("annotator", "manager"), link[:-1], link + "A"]
    wrong += [place.signer.cookie(ANNOTATOR, "ada").replace("ada.", "/enter/annotator/ada/")]
    for path in wrong:
        stranger = Client(place.app)
        assert stranger.get(path).status == 403, path
        assert stranger.cookies == {}
    other = Signer(b"x" * 32)
    assert not place.signer.fits(other.sign("link", MANAGER, "manager"), "link", MANAGER, "manager")
    assert "personal link" in Client(place.app).get("/").text
    assert Client(place.app).post("/join", {"name": "ada"}).status == 422


def test_every_reply_has_the_headers(site, tmp_path):
    place = site(make_batch(tmp_path))
    ada = place.person("ada")
    for reply in (
        ada.get("/"),
        ada.get("/none"),
        ada.get("/static/page.js"),
        ada.get("/", host="x"),
        ada.post("/undo"),
    ):
        policy = reply.header("content-security-policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert reply.header("x-content-type-options") == "nosniff"
        assert reply.header("referrer-policy") == "same-origin"


def test_no_page_has_inline_script_or_style_or_an_address_elsewhere(site, tmp_path):
    place = site(make_batch(tmp_path))
    ada, manager = place.person("ada"), place.manager()
    answer(ada)
    for page in (ada.get("/").text, manager.get("/manager").text, Client(place.app).get("/").text):
        assert not re.search(r"<script(?! src=\"/static/)|\son\w+=|style=|<style|javascript:", page)
        assert all(re.fullmatch(r"/([^/].*)?", to) for to in re.findall(r'(?:src|href|action)="([^"]*)"', page))


def test_size_and_rate(site, tmp_path, monkeypatch):
    place = site(make_batch(tmp_path))
    ada = place.person("ada")
    assert ada("POST", "/answer", body=b"x" * (security.LARGEST + 1)).status == 413
    assert ada("POST", "/answer", body=b"x", content_length=str(10**12)).status == 413
    assert ada("POST", "/answer", body=b"\xff=%ff").status == 422
    assert ada("POST", "/answer", body=b"&".join(b"a=1" for _ in range(100))).status == 422
    assert ada.post("/answer", content_type="text/plain").status == 422
    monkeypatch.setattr(security, "RATE", 0.0)
    statuses = [ada.get("/static/icon.svg").status for _ in range(150)]
    assert statuses.count(429) >= 30
    assert place.person("ben").get("/").status == 200, "each has a rate of their own"


def test_a_bucket_fills_again():
    now = [0.0]
    guard = Guard(None, frozenset(), Signer(b"k"), lambda: now[0])
    assert sum(guard._in_time("a") for _ in range(200)) == security.BURST
    now[0] = 1.0
    assert sum(guard._in_time("a") for _ in range(200)) == security.RATE
    for number in range(security.CLIENTS + 5):
        guard._in_time(str(number))
    assert len(guard._rates) == security.CLIENTS


def test_keys(tmp_path):
    make_batch(tmp_path)
    key = read_key(tmp_path, None, "127.0.0.1")
    assert key == read_key(tmp_path, None, "localhost")
    assert stat.S_IMODE((tmp_path / "people" / ".key").stat().st_mode) == 0o600
    with pytest.raises(RecipeError, match=r"host: found 0\.0\.0\.0 without a token"):
        read_key(tmp_path, None, "0.0.0.0")
    (tmp_path / "token").write_text("short\n")
    with pytest.raises(RecipeError, match="found 5 characters, expected at least 16"):
        read_key(tmp_path, str(tmp_path / "token"), "0.0.0.0")
    (tmp_path / "token").write_text("correct horse battery staple\n")
    assert read_key(tmp_path, str(tmp_path / "token"), "0.0.0.0") != key


def test_hosts():
    assert _hosts("127.0.0.1", 5, []) == {"127.0.0.1:5", "localhost:5", "[::1]:5"}
    assert _hosts("10.0.0.7", 5, []) == {"10.0.0.7:5"}
    assert _hosts("0.0.0.0", 5, ["Lab.example"]) == {"lab.example:5", "lab.example"}
    with pytest.raises(RecipeError, match=r"name: found none for host 0\.0\.0\.0"):
        _hosts("0.0.0.0", 5, [])


@pytest.mark.parametrize(
    "text",
    ["<script>x</script>", "[a](javascript:x)", "[a](http://b.example)", "![a](http://b.example/c.png)", "<http://b.example>",
     "&lt;script&gt;", "[a]: http://b.example\n\n[a]", "<b onclick=x>"],
)  # fmt: skip
def test_markdown_neither_runs_nor_fetches(text):
    html = str(markdown(text))
    assert not re.search(r"<(?!/?p>)", html), html


def test_markdown_is_rendered():
    html = str(markdown("# A\n\n- **b**\n\n```python\n<c>\n```\n\n|d|\n|:-:|\n|e|\n"))
    for part in ("<h1>A</h1>", "<strong>b</strong>", '<code class="language-python">&lt;c&gt;', "<td>e</td>"):
        assert part in html
    assert "style" not in html
