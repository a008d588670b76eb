"""Tables and pictures as HTML. All text is escaped: what a model wrote is shown, never run."""

from collections.abc import Iterable, Sequence
from html import escape

STYLE = "text-align: left; vertical-align: top; white-space: pre-wrap"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers with four digits."""
    head = "".join(f'<th style="{STYLE}">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{STYLE}">{escape(shown(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def titled(title: str, *parts: str) -> str:
    """Parts below a line of text."""
    return f"<p><b>{escape(title)}</b></p>" + "".join(parts)


def shown(value: object) -> str:
    """A cell's text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
