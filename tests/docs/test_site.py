"""The site as `make docs` builds it: no warning, all pages in the menu, nothing from elsewhere, no dead link."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from llama_align.rounds.plan import read_yaml
from tests.conftest import CHROMIUM, FLAGS

pytest.importorskip("zensical", reason="the extra docs is not installed")
ROOT = Path(__file__).parents[2]
LOADS = dict.fromkeys(("script", "img", "source", "iframe", "video", "audio"), "src") | {"link": "href"}


class Page(HTMLParser):
    """What a page loads, where it leads, and what can be led to."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads, self.links, self.ids = [], [], set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag in LOADS and LOADS[tag] in given:
            self.loads.append(given[LOADS[tag]])
        if "srcset" in given:
            self.loads += [part.split()[0] for part in given["srcset"].split(",")]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built in a folder of its own; `--strict` ends with an error at the first warning."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert not re.search("warning|griffe:|does not|error", said, re.IGNORECASE), said
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_page_is_in_the_menu():
    def named(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [name for part in (entry.values() if isinstance(entry, dict) else entry) for name in named(part)]

    menu = named(read_yaml(ROOT / "mkdocs.yml").content["nav"])
    assert sorted(menu) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


def test_pages_load_nothing_from_elsewhere(site, pages):
    assert len(pages) > 30
    for path, page in pages.items():
        away = [load for load in page.loads if urlsplit(load).netloc or urlsplit(load).scheme not in ("", "data")]
        assert away == [], path
    for path in site.rglob("*.css"):
        style = path.read_text("utf-8")
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?\s*(?:https?:)?//", style), path


def test_links_lead_to_pages_and_headings(site, pages):
    for path, page in pages.items():
        for link in (urlsplit(link) for link in page.links):
            if link.scheme or link.netloc or path.name == "404.html":  # which is shown at any address
                continue
            target = (path.parent / unquote(link.path)).resolve() if link.path else path
            assert target.is_file(), (path, link)
            if link.fragment and target in pages:
                assert unquote(link.fragment) in pages[target].ids | {"__search"}, (path, link)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium to look at the pages with")
def test_a_browser_asks_for_nothing_else_and_pages_fit_a_phone(site):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "papers", "metrics", "api", "results/margins"):
            page.goto((site / f"{name}.html").as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        browser.close()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
