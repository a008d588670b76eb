"""The token contract: a dialog becomes ids and a role per token, here and nowhere else.

    <|begin_of_text|> { <|start_header_id|> role <|end_header_id|> \\n\\n content <|eot_id|> }*

(Llama 3's format; `<|eom_id|>` instead of `<|eot_id|>` when a tool will answer.) Control tokens are placed by this
module as ids. Content is encoded as plain text, so `<|eot_id|>` typed by a user stays the text it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from transformers import PreTrainedTokenizerBase

from .tools import PYTHON_TAG, Answer, Message, as_message, fault, sampled, spoken

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
START_HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
EOM, EOT = "<|eom_id|>", "<|eot_id|>"
HEADER_END_TEXT = "\n\n"
ROLES = ("system", "user", "assistant", "ipython")
NAMES = {"tool": "ipython"}  # what others call a role

# keys of a message that are part of what is said in other formats and have no place in this one
MEANT = ("recipient", "function_call", "tool_plan", "thinking", "reasoning_content", "reasoning")


class TokenRole(IntEnum):
    """What a token is for. SFT learns ANSWER and ANSWER_END; DPO's ratio leaves out everything but content."""

    TEXT = 0  # outside any message: documents, begin and end of text, padding
    HEADER = 1  # start_header, the role's name, end_header, the two newlines
    PROMPT = 2  # content of system, user and ipython messages
    PROMPT_END = 3  # the terminator of such a message
    ANSWER = 4  # content of assistant messages
    ANSWER_END = 5  # the terminator of an assistant message
    TOOL = 6  # the tag that opens a tool call inside an assistant message


LEARNED = (TokenRole.ANSWER, TokenRole.ANSWER_END, TokenRole.TOOL)
FORMAT = (TokenRole.HEADER, TokenRole.PROMPT_END, TokenRole.ANSWER_END, TokenRole.TOOL)


class ContractError(ValueError):
    """A dialog, tokenizer or model that does not fit the token contract."""


@dataclass(frozen=True)
class ControlTokens:
    """The ids of the control tokens of one tokenizer."""

    bos: int
    eos: int
    pad: int
    start_header: int
    end_header: int
    eom: int
    eot: int
    python_tag: int
    newlines: int
    assistant: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "ControlTokens":
        """Looks the ids up.

        Raises:
            ContractError: a control token is missing, or the two newlines are not one token.
        """
        vocabulary = tokenizer.get_vocab()
        names = (BOS, EOS, PAD, START_HEADER, END_HEADER, EOM, EOT, PYTHON_TAG)
        missing = [name for name in names if name not in vocabulary]
        if missing:
            raise ContractError(
                f"tokenizer {tokenizer.name_or_path!r}: found no {', '.join(missing)}, "
                "expected Llama 3's control tokens; train one with recipes/tokenizer.py"
            )
        newlines = encode_text(tokenizer, HEADER_END_TEXT)
        if len(newlines) != 1:
            raise ContractError(
                f"tokenizer {tokenizer.name_or_path!r}: found {len(newlines)} tokens for the two newlines after a "
                "header, expected one"
            )
        ids = (vocabulary[name] for name in names)
        return cls(*ids, newlines=newlines[0], assistant=tuple(encode_text(tokenizer, "assistant")))

    @property
    def terminators(self) -> tuple[int, int, int]:
        """Ids at which an answer ends: end of turn, end of message, end of text."""
        return self.eot, self.eom, self.eos


@dataclass(frozen=True)
class Rendered:
    """A dialog as ids and, in parallel, a `TokenRole` for each."""

    ids: list[int]
    roles: list[int]

    @property
    def labels(self) -> list[int]:
        """The ids where an assistant speaks, -100 elsewhere."""
        return [i if role in LEARNED else -100 for i, role in zip(self.ids, self.roles, strict=True)]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of plain text; nothing in it becomes a control token.

    Raises:
        ContractError: text that is not valid Unicode.
    """
    try:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    except TypeError as error:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        raise ContractError(f"text: found {text[:60]!r}, expected valid Unicode") from error


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    tokens: ControlTokens | None = None,
) -> Rendered:
    """Renders a dialog.

    Args:
        messages: dicts with `role` (one of `ROLES`; `tool` is `ipython`) and `content`; an assistant message may have
            `tool_calls` (see `tools`; content may then be None) and `end`, `"eom"` when a tool will answer (`"eot"` is
            what it is without). A tool's answer belongs to a call by its place: an id of it is not written.
        add_generation_prompt: end with the header of an assistant message still to be written.
        continue_final_message: leave the last message open, without its end, as it stands where an answer was cut.
        tokens: `ControlTokens.of(tokenizer)`, looked up if not given.

    Raises:
        ContractError: an unknown role or end, content that is not text, calls that are none, or a last message
            continued and followed.
    """
    if continue_final_message and (add_generation_prompt or not messages):
        found = "add_generation_prompt beside it" if messages else "no message"
        raise ContractError(f"continue_final_message: found {found}, expected a last message to leave open")
    tokens = tokens or ControlTokens.of(tokenizer)
    ids, roles = [tokens.bos], [TokenRole.TEXT]

    def add(new: Iterable[int], role: TokenRole) -> None:
        new = list(new)
        ids.extend(new)
        roles.extend([role] * len(new))

    def header(name: str) -> None:
        add([tokens.start_header, *encode_text(tokenizer, name), tokens.end_header, tokens.newlines], TokenRole.HEADER)

    for number, message in enumerate(messages):
        message = _checked(message, number)
        header(message["role"])
        answer, (tagged, texts) = message["role"] == "assistant", spoken(message)
        add([tokens.python_tag] * tagged, TokenRole.TOOL)
        for text in texts:
            add(encode_text(tokenizer, text), TokenRole.ANSWER if answer else TokenRole.PROMPT)
        if not continue_final_message or number < len(messages) - 1:
            add([_end(message, tokens)], TokenRole.ANSWER_END if answer else TokenRole.PROMPT_END)
    if add_generation_prompt:
        header("assistant")
    return Rendered(ids, [int(role) for role in roles])


def _checked(message: Message, number: int) -> Message:
    """The message with a role and content of ours; raises ContractError for one that has no place in the format."""
    role = message.get("role")
    role = NAMES.get(role, role) if isinstance(role, str) else role
    content = "" if message.get("content") is None and message.get("tool_calls") else message.get("content")
    if role not in ROLES:
        raise ContractError(f"message {number}, field 'role': found {role!r}, expected one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ContractError(f"message {number}, field 'content': found {type(content).__name__}, expected text")
    if meant := [key for key in MEANT if message.get(key)]:
        expected = "role, content, tool_calls and end alone"
        raise ContractError(f"message {number}, field '{meant[0]}': found one, expected {expected}")
    if (ending := message.get("end") or "eot") not in ("eot", "eom"):
        raise ContractError(f"message {number}, field 'end': found {ending!r}, expected eot or eom")
    if wrong := fault(message):
        place, found, expected = wrong
        raise ContractError(f"message {number}, field '{place}': found {found!r:.60}, expected {expected}")
    return message | {"role": role, "content": content}


def _end(message: Message, tokens: ControlTokens) -> int:
    return tokens.eom if message.get("end") == "eom" else tokens.eot


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tokens=None) -> list[int]:
    """Ids of a dialog followed by the header of the answer to be written: what a sampler continues."""
    return render(tokenizer, messages, add_generation_prompt=True, tokens=tokens).ids


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: Answer, tokens=None, finished: bool = True) -> list[int]:
    """Ids of an answer's content and calls, and its end (left out if the answer was cut before it ended)."""
    tokens = tokens or ControlTokens.of(tokenizer)
    message = as_message(answer)
    tagged, texts = spoken(message)
    said = [i for text in texts for i in encode_text(tokenizer, text)]
    return [tokens.python_tag] * tagged + said + [_end(message, tokens)] * finished


def decode_answer(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], tokens=None) -> Answer:
    """A sampled answer without its terminator: its text, or a message where it begins with a python tag (a call of the
    code interpreter, see `tools.sampled`) or ends for a tool to answer. Other control tokens inside it are left out.
    """
    tokens = tokens or ControlTokens.of(tokenizer)
    ids = list(ids)
    end = "eom" if ids and ids[-1] == tokens.eom else "eot"
    if ids and ids[-1] in tokens.terminators:
        ids.pop()
    tags = [i for i, token in enumerate(ids) if token == tokens.python_tag]
    parts = [ids[a + 1 : b] for a, b in zip([-1, *tags], [*tags, len(ids)], strict=True)]
    return sampled([tokenizer.decode(part, skip_special_tokens=True) for part in parts], end)


def roles_of(ids_BL: torch.Tensor, tokens: ControlTokens) -> torch.Tensor:
    """The role of every token, read back from ids alone.

    Args:
        ids_BL: [B, L] rendered dialogs, padded on either side, or several of them packed into a row.

    Returns:
        [B, L] of `TokenRole` values; equal to what `render` gave.
    """
    starts, ends = ids_BL == tokens.start_header, ids_BL == tokens.end_header
    position = torch.arange(ids_BL.shape[1], device=ids_BL.device).expand_as(ids_BL)

    def last(mask):  # position of the last True up to and including here, -1 if none
        return torch.where(mask, position, -1).cummax(1).values

    start, end = last(starts), last(ends)
    newlines = torch.zeros_like(starts)
    newlines[:, 1:] = ends[:, :-1] & (ids_BL[:, 1:] == tokens.newlines)
    in_header = (start > end) | ends | newlines

    terminator = (ids_BL == tokens.eot) | (ids_BL == tokens.eom)
    outside = (ids_BL == tokens.bos) | (ids_BL == tokens.eos) | (ids_BL == tokens.pad)
    closed = last(terminator | outside)
    before = torch.full_like(closed, -1)
    before[:, 1:] = closed[:, :-1]
    in_message = (start >= 0) & (before < start) & ~in_header & ~outside

    name = list(tokens.assistant)
    speaks = starts.clone()
    for offset, token in enumerate([*name, tokens.end_header], start=1):
        shifted = torch.zeros_like(starts)
        shifted[:, : max(0, ids_BL.shape[1] - offset)] = ids_BL[:, offset:] == token
        speaks &= shifted
    assistant = speaks.gather(1, start.clamp(min=0)) & (start >= 0)

    roles = torch.full_like(ids_BL, TokenRole.TEXT)
    roles[in_message] = TokenRole.PROMPT
    roles[in_message & terminator] = TokenRole.PROMPT_END
    roles[in_message & assistant] = TokenRole.ANSWER
    roles[in_message & assistant & terminator] = TokenRole.ANSWER_END
    roles[in_message & assistant & (ids_BL == tokens.python_tag)] = TokenRole.TOOL
    roles[in_header] = TokenRole.HEADER
    return roles
