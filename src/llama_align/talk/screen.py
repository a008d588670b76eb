"""Where a conversation is shown. What a model writes can move no cursor and change no colour."""

import unicodedata
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ..chat import TokenRole

STYLES = {
    TokenRole.TEXT: "dim",
    TokenRole.HEADER: "magenta",
    TokenRole.PROMPT: "cyan",
    TokenRole.PROMPT_END: "yellow",
    TokenRole.ANSWER: "green",
    TokenRole.ANSWER_END: "bold yellow",
    TokenRole.TOOL: "red",
}
JOINERS = "\u200c\u200d"  # which scripts and emoji need


def harmless(text: str) -> str:
    """Text with what controls a terminal, or turns the direction of writing, as escapes."""
    return "".join(
        repr(letter)[1:-1]
        if unicodedata.category(letter) in ("Cc", "Cf", "Cs") and letter not in "\n\t" + JOINERS
        else letter
        for letter in text
    )


class Screen:
    """Standard output, in colour where it is a terminal."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)

    def say(self, text: str, style: str = "") -> None:
        """A line."""
        self.console.print(Text(harmless(text), style), soft_wrap=True)

    def piece(self, text: str) -> None:
        """A piece of an answer."""
        self.console.print(Text(harmless(text)), end="", soft_wrap=True)
        self.console.file.flush()

    def tokens(self, pieces: Sequence[tuple[str, TokenRole]]) -> None:
        """A dialog by role: in colours with their names, or a line for each piece."""
        if not self.console.is_terminal:
            for text, role in pieces:
                self.say(f"{role.name.lower():10s} {text!r}")
            return
        names = {role: role.name.lower().replace("_", " ") for _, role in pieces}
        self.console.print(Text("  ").join(Text(name, STYLES[role]) for role, name in sorted(names.items())))
        self.console.print(Text.assemble(*((harmless(text), STYLES[role]) for text, role in pieces)), soft_wrap=True)
