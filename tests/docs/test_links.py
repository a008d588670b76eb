"""Every link within the project leads to a file, and to a heading where it names one."""

from urllib.parse import unquote, urlsplit

import pytest

from .reading import PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


def test_the_readme_leads_to_every_part():
    found = {(ROOT / link).resolve() for link in links(ROOT / "README.md") if not urlsplit(link).scheme}
    assert {ROOT / "docs" / "index.md", ROOT / "docs" / "design.md"} <= found
