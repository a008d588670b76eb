"""Any text as Markdown that shows that text: names, paths, numbers and commands of a run in its model card."""

import re

_MARKS = re.compile(r"[\\`*\[\]<>|&~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def plain(text: object) -> str:
    """Text in a line of prose, a heading or a cell of a table; nothing in it is a mark, a link or HTML."""
    return _MARKS.sub(lambda mark: f"&#{ord(mark[0])};", _line(text))


def code(text: object) -> str:
    """Text as a code span in a cell of a table."""
    line = _line(text)
    fence = "`" * (_longest_run(line) + 1)
    space = " " if not line or line[0] in "` " or line[-1] in "` " else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|")


def block(text: str, language: str) -> list[str]:
    """Text as the lines of a block of code."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return [f"{fence}{language}", text, fence]


def _line(text: object) -> str:
    return " ".join(str(text).split())


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
