"""What stands on the pages: code, commands as a shell would split them, links, headings."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "recipes", "data_cards")
PAGES = [ROOT / "README.md", *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
OTHER = ("python", "yaml", "json", "jsonl")  # of fences
PROGRAMS = ("llama-align", "python", "python3", "accelerate", "make", "pip", "hf")
BEFORE = ("do", "time", "env", "nice")
PLACES = {"<herd>": "herd-nano", "<stage>": "sft"}  # of which any would do


@dataclass(frozen=True)
class Command:
    """A command on a page: the program, without its folder, and its arguments."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))


def commands(page: Path) -> Iterator[Command]:
    """All commands of a page, those in a line of text included where they have arguments."""
    for token in tokens(page):
        if token.type == "code_block" or (token.type == "fence" and token.info.split(" ")[0] not in OTHER):
            for line in token.content.replace("\\\n", " ").splitlines():
                yield from _of_line(page, line)
        for child in token.children or ():
            if child.type == "code_inline":
                yield from (found for found in _of_line(page, child.content) if len(found.words) > 1)


def _of_line(page: Path, line: str) -> Iterator[Command]:
    line = re.sub(r"<\w+>", lambda found: PLACES.get(found[0], "any"), line.removeprefix("$ "))
    if not any(program in line for program in PROGRAMS):
        return
    split = shlex.shlex(line, posix=True, punctuation_chars=True)
    split.whitespace_split = True
    try:
        words = [*split]
    except ValueError:  # text with an apostrophe
        return
    while words:
        end = next((place for place, word in enumerate(words) if set(word) <= set(";&|")), len(words))
        one, words = words[:end], words[end + 1 :]
        while one and (one[0] in BEFORE or re.match(r"[A-Z_]+=|[A-Z]=", one[0])):
            one.pop(0)
        if one and Path(one[0]).name in PROGRAMS:
            yield Command(str(page.relative_to(ROOT)), (Path(one[0]).name, *one[1:]))


def files(page: Path) -> Iterator[tuple[str, str]]:
    """Files whose text a page has: blocks with a title."""
    for token in tokens(page):
        if token.type == "fence" and (title := re.search(r'title="(.+?)"', token.info)):
            yield title[1], token.content


def links(page: Path) -> Iterator[str]:
    """Where the links and pictures of a page lead."""
    for token in tokens(page):
        for child in token.children or ():
            yield from (child.attrs[name] for name in ("href", "src") if name in child.attrs)


def anchor(heading: str) -> str:
    """The name of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading, inline in zip(tokens(page), tokens(page)[1:], strict=False):
        if heading.type == "heading_open":
            name = anchor("".join(child.content for child in inline.children if child.type in ("text", "code_inline")))
            found[name] = found.get(name, -1) + 1
    return {name + (f"-{n}" if n else "") for name, last in found.items() for n in range(last + 1)}


def rows(page: Path, first: str) -> list[list[str]]:
    """The rows of all tables whose first heading is `first`, cells as text without backticks."""
    found, row, wanted = [], [], False
    for token, inline in zip(tokens(page), [*tokens(page)[1:], None], strict=True):
        if token.type == "table_open":
            wanted = False
        elif token.type == "tr_open":
            row = []
        elif token.type in ("th_open", "td_open"):
            row.append("".join(_shown(child) for child in inline.children))
        elif token.type == "thead_close":
            wanted = row[0] == first
        elif token.type == "tr_close" and wanted:
            found.append(row)
    return found


def _shown(child: Token) -> str:
    return child.content if child.type in ("text", "code_inline") else ""
