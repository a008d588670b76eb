"""What a token is for, and roles read back from ids alone."""

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .contract import ControlTokens


class TokenRole(IntEnum):
    """What a token is for. SFT learns ANSWER and ANSWER_END; DPO's ratio leaves out everything but content."""

    TEXT = 0  # outside any message: documents, begin and end of text, padding
    HEADER = 1  # what opens a message and names its role, and what stands between messages
    PROMPT = 2  # content of system, user and ipython messages
    PROMPT_END = 3  # the terminator of such a message
    ANSWER = 4  # content of assistant messages
    ANSWER_END = 5  # the terminator of an assistant message
    TOOL = 6  # the tag that opens a tool call inside an assistant message


LEARNED = (TokenRole.ANSWER, TokenRole.ANSWER_END, TokenRole.TOOL)
FORMAT = (TokenRole.HEADER, TokenRole.PROMPT_END, TokenRole.ANSWER_END, TokenRole.TOOL)


@dataclass(frozen=True)
class Opening:
    """Ids that open a message, which nothing typed can become.

    Args:
        ids: None stands for any: white space that content begins with can join the last one of a header.
        lead: how many of them stand before the header.
        content: role of what follows; None for what stands behind an end of turn and opens nothing.
        first: only where nothing or something outside messages stands before it.
        inside: only inside of a user's message, which it ends.
    """

    ids: tuple[int | None, ...]
    lead: int
    content: TokenRole | None
    first: bool = False
    inside: bool = False


def roles_of(ids_BL: torch.Tensor, tokens: "ControlTokens") -> torch.Tensor:
    """The role of every token, read back from ids alone.

    Args:
        ids_BL: [B, L] rendered dialogs, padded on either side, or several of them packed into a row. In Zephyr's form,
            where a header is text, one behind a dialog that was left open would be taken for what is said there.

    Returns:
        [B, L] of `TokenRole` values; equal to what `render` gave.
    """
    ends = _any_of(ids_BL, (tokens.eot, tokens.eom))
    outside = _any_of(ids_BL, (tokens.bos, tokens.eos, tokens.pad)) & ~ends
    closed = _last(ends | outside)
    header, fresh = torch.zeros_like(ends), _after(outside | (ids_BL == tokens.eos), first=True)
    opened = {role: torch.zeros_like(ends) for role in (TokenRole.PROMPT, TokenRole.ANSWER)}
    for opening in sorted(tokens.openings, key=lambda opening: (opening.inside, opening.content is not None)):
        found = _matches(ids_BL, opening)
        if opening.first:
            found &= fresh
        if opening.inside:
            found &= _in_message(opened, closed, header)[0]
        size = len(opening.ids)
        for offset in range(opening.lead, size):
            header |= _later(found, offset)
        if opening.content is None:
            fresh = fresh | _later(found, size)  # a dialog packed behind another one
        else:
            opened[opening.content] |= _later(found, size - 1)

    asked, answered = _in_message(opened, closed, header)
    roles = torch.full_like(ids_BL, TokenRole.TEXT)
    for inside, content, end in (
        (asked, TokenRole.PROMPT, TokenRole.PROMPT_END),
        (answered, TokenRole.ANSWER, TokenRole.ANSWER_END),
    ):
        roles[inside & ~outside] = content
        roles[inside & ends] = end
    if tokens.python_tag is not None:
        roles[answered & (ids_BL == tokens.python_tag)] = TokenRole.TOOL
    roles[header] = TokenRole.HEADER
    return roles


def _in_message(opened: dict, closed_BL, header_BL) -> tuple[torch.Tensor, torch.Tensor]:
    """Where content and ends of prompts, and of answers, stand: behind their header and up to what closes them."""
    before = torch.full_like(closed_BL, -1)
    before[:, 1:] = closed_BL[:, :-1]
    prompt, answer = (_last(opened[role]) for role in (TokenRole.PROMPT, TokenRole.ANSWER))
    inside = (torch.maximum(prompt, answer) > before) & ~header_BL
    return inside & (prompt > answer), inside & (answer > prompt)


def _matches(ids_BL: torch.Tensor, opening: Opening) -> torch.Tensor:
    """Where an opening starts. A row may end within one, unless text could begin alike."""
    found = torch.ones_like(ids_BL, dtype=torch.bool)
    for offset, token in enumerate(opening.ids):
        if token is not None and offset < ids_BL.shape[1]:
            found[:, : ids_BL.shape[1] - offset] &= ids_BL[:, offset:] == token
    if opening.first or opening.inside:
        found[:, max(0, ids_BL.shape[1] - len(opening.ids) + 1) :] = False
    return found


def _any_of(ids_BL: torch.Tensor, tokens: tuple[int | None, ...]) -> torch.Tensor:
    return torch.isin(ids_BL, torch.tensor([token for token in tokens if token is not None], device=ids_BL.device))


def _later(mask_BL: torch.Tensor, offset: int) -> torch.Tensor:
    moved = torch.zeros_like(mask_BL)
    moved[:, offset:] = mask_BL[:, : max(0, mask_BL.shape[1] - offset)]
    return moved


def _after(mask_BL: torch.Tensor, first: bool) -> torch.Tensor:
    moved = _later(mask_BL, 1)
    moved[:, :1] = first
    return moved


def _last(mask_BL: torch.Tensor) -> torch.Tensor:
    """Position of the last True up to and including each, -1 if none."""
    position = torch.arange(mask_BL.shape[1], device=mask_BL.device).expand_as(mask_BL)
    return torch.where(mask_BL, position, -1).cummax(1).values
