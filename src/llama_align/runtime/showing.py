"""How errors name what they found."""

from typing import Any


def show(value: Any) -> str:
    """How a value is named in an error: short, and never a page of text."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        names = [name if isinstance(name, str) and name.isprintable() else repr(name) for name in value]
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        return f"an object with {', '.join(name[:40] for name in names[:12]) or 'no fields'}{more}"
    return f"{value!r} ({type(value).__name__})"
