"""A dialog as a model reads it: every token in the colour of its role."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import escape
from transformers import PreTrainedTokenizerBase

from ..chat import LEARNED, ControlTokens, Message, TokenRole, render
from ..recipe import load_tokenizer

COLOURS = {
    TokenRole.TEXT: ("#e5e7eb", "outside messages"),
    TokenRole.HEADER: ("#c7d2fe", "header"),
    TokenRole.PROMPT: ("#e0f2fe", "prompt"),
    TokenRole.PROMPT_END: ("#a5b4fc", "end of prompt"),
    TokenRole.ANSWER: ("#bbf7d0", "answer"),
    TokenRole.ANSWER_END: ("#4ade80", "end of answer"),
    TokenRole.TOOL: ("#fde68a", "tool"),
}
WIDE, ADVANCE, HEIGHT = 700, 7.3, 30  # of a row, a letter and a row, in pixels


class Tokens:
    """The tokens of a dialog by the token contract, with the role of each and whether it is learned.

    Args:
        place: a tokenizer, a checkpoint, or the folder of a tokenizer. options: of `chat.render`.

    Raises:
        ContractError: a dialog that the tokenizer's dialect has no form for.
    """

    def __init__(self, place: str | Path | PreTrainedTokenizerBase, messages: Sequence[Message], **options):
        tokenizer = load_tokenizer(str(place)) if isinstance(place, str | Path) else place
        tokens = ControlTokens.of(tokenizer)
        rendered = render(tokenizer, messages, tokens=tokens, **options)
        self.ids, self.labels = rendered.ids, rendered.labels
        self.roles = [TokenRole(role) for role in rendered.roles]
        self.texts = [tokenizer.decode([token]) for token in self.ids]
        self.control = [token in tokens.ids.values() for token in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def learned(self) -> list[bool]:
        """Whether SFT learns to write each."""
        return [role in LEARNED for role in self.roles]

    def __repr__(self) -> str:
        return f"Tokens({len(self)}, {sum(self.learned)} of them learned)"

    def _repr_svg_(self) -> str:
        """Boxes in the colours of roles; control tokens are framed, what is learned is underlined."""
        boxes, left, top = [], 0.0, 0
        for text, role, control, learned in zip(self.texts, self.roles, self.control, self.learned, strict=True):
            shown = text.replace("\n", "⏎").replace(" ", "·")
            width = ADVANCE * len(shown) + 8
            if left and left + width > WIDE:
                left, top = 0.0, top + HEIGHT
            boxes.append(_box(left, top, width, shown, role, control, learned))
            left += width + 3
        left, top = 0.0, top + HEIGHT + 8
        for role in dict.fromkeys(self.roles):
            name = COLOURS[role][1]
            width = ADVANCE * len(name) + 8
            boxes.append(_box(left, top, width, name, role, False, role in LEARNED))
            left += width + 10
        size = f'width="{WIDE}" height="{top + HEIGHT}" viewBox="0 0 {WIDE} {top + HEIGHT}"'
        style = "font: 12px monospace; background: #fff"
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="{style}">{"".join(boxes)}</svg>'


def _box(left: float, top: float, width: float, text: str, role: TokenRole, framed: bool, underlined: bool) -> str:
    frame = ' stroke="#4338ca"' if framed else ""
    rect = (
        f'<rect x="{left + 1:g}" y="{top + 1}" width="{width:g}" height="20" rx="3" fill="{COLOURS[role][0]}"{frame}/>'
    )
    under = f'<rect x="{left + 1:g}" y="{top + 23}" width="{width:g}" height="3" fill="#15803d"/>' if underlined else ""
    place = f'x="{left + 5:g}" y="{top + 15}" textLength="{ADVANCE * len(text):g}" xml:space="preserve"'
    return f'{rect}{under}<text {place} fill="#111827">{escape(text)}</text>'
