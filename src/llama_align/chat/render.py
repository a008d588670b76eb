"""Dialogs to ids and answers back to text, in every dialect by the same code."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from .contract import ControlTokens, Piece, Rendered, encode_pieces
from .dialects import ContractError, Dialect, template_of, templated
from .roles import TokenRole
from .tools import TOOLS_ON, Answer, Message, as_message, fault, sampled, spoken

NAMES = {"tool": "ipython"}  # what others call a role
# keys of a message that are part of what is said in other formats and have no place in this one
MEANT = ("recipient", "function_call", "tool_plan", "thinking", "reasoning_content", "reasoning")

# what templates are known to change: white space around a text, and thoughts
SAMPLES = (
    (("system", "be brief"), ("user", "say a"), ("assistant", "a"), ("user", "say b"), ("assistant", "b")),
    (("user", " a\n"), ("assistant", " b:\n  c\n"), ("user", "a"), ("assistant", "<think>b</think>c"), ("user", "a")),
)


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
        messages: dicts with `role` (one of the dialect's; `tool` is `ipython`) and `content`; an assistant message may
            have `tool_calls` (see `tools`; content may then be None) and `end`, `"eom"` when a tool will answer
            (`"eot"` is what it is without). A tool's answer belongs to a call by its place: an id of it is not written.
        add_generation_prompt: end with the header of an assistant message still to be written.
        continue_final_message: leave the last message open, without its end, as it stands where an answer was cut.
        tokens: `ControlTokens.of(tokenizer)`, looked up if not given.

    Raises:
        ContractError: a role, an end, calls or an order of messages that the dialect does not have, content that is
            not text, calls that are none, or a last message continued and followed.
    """
    if continue_final_message and (add_generation_prompt or not messages):
        found = "add_generation_prompt beside it" if messages else "no message"
        raise ContractError(f"continue_final_message: found {found}, expected a last message to leave open")
    tokens = tokens or ControlTokens.of(tokenizer)
    dialect = tokens.dialect
    messages = [_checked(message, number, dialect) for number, message in enumerate(messages)]
    if dialect.pairs:
        messages = _in_turns(messages, dialect, add_generation_prompt)
        add_generation_prompt = messages[-1]["role"] == "user" and not continue_final_message
    elif tokens.system is not None and (not messages or messages[0]["role"] != "system"):
        messages = [{"role": "system", "content": tokens.system}, *messages]
    pieces = list(tokens.begin)
    for number, message in enumerate(messages):
        still_open = continue_final_message and number == len(messages) - 1
        pieces += tokens.headers[message["role"]]
        pieces += content_of(message, tokens, still_open)
        if not still_open:
            pieces += _end_of(message, tokens)
    if add_generation_prompt:
        pieces += tokens.headers["assistant"]
    return encode_pieces(tokenizer, pieces, tokens)


def content_of(message: Message, tokens: ControlTokens, still_open: bool = False) -> list[Piece]:
    """What stands between a message's header and its end; calls are encoded each by itself, as Meta does it."""
    dialect, role = tokens.dialect, message["role"]
    text = dialect.typed(message["content"])
    if dialect.system and "system" in message:
        text = dialect.system.format(system=dialect.typed(message["system"]), user=text)
    before, behind = dialect.padding.get(role, ("", ""))
    text = before + (text.strip() if dialect.trims else text) + ("" if still_open else behind)
    kind = TokenRole.ANSWER if role == "assistant" else TokenRole.PROMPT
    if not message.get("tool_calls"):
        return [(text, kind)]
    tagged, (_, *calls) = spoken(message)
    tag = [(tokens.python_tag, TokenRole.TOOL)] if tagged else []
    return [*tag, (text, kind), *(piece for call in calls for piece in (("", kind), (call, kind)))]


def _end_of(message: Message, tokens: ControlTokens) -> list[Piece]:
    if tokens.dialect.pairs and message["role"] == "user":
        return []  # the header of the answer ends it
    end = tokens.eom if message.get("end") == "eom" else tokens.eot
    role = TokenRole.ANSWER_END if message["role"] == "assistant" else TokenRole.PROMPT_END
    return [(end, role), (tokens.dialect.after, TokenRole.HEADER)]


def _checked(message: Message, number: int, dialect: Dialect) -> Message:
    """The message with a role and content of ours; raises ContractError for one that has no place in the dialect."""
    where, ends = f"message {number}, field", ["eot"] + ["eom"] * (dialect.eom is not None)
    role, ending, called = message.get("role"), message.get("end") or "eot", bool(message.get("tool_calls"))
    role = NAMES.get(role, role) if isinstance(role, str) else role
    content = "" if message.get("content") is None and called else message.get("content")
    if role not in dialect.roles:
        found = f"found {message.get('role')!r}, expected one of {', '.join(dialect.roles)}"
        raise ContractError(f"{where} 'role': {found}: {dialect.name} writes no other")
    if not isinstance(content, str):
        raise ContractError(f"{where} 'content': found {type(content).__name__}, expected text")
    if meant := [key for key in MEANT if message.get(key)]:
        raise ContractError(f"{where} '{meant[0]}': found one, expected role, content, tool_calls and end alone")
    if called and dialect.python_tag is None:
        raise ContractError(f"{where} 'tool_calls': found some, expected none: {dialect.name} has no form for calls")
    if ending not in ends:
        raise ContractError(f"{where} 'end': found {ending!r}, expected {' or '.join(ends)} in {dialect.name}")
    if role == "system" and content.startswith(TOOLS_ON) and dialect.python_tag is None:
        found = f"found {TOOLS_ON!r}, with which tools are introduced, expected none"
        raise ContractError(f"{where} 'content': {found}: {dialect.name} has no form for calls")
    if wrong := fault(message):
        place, found, expected = wrong
        raise ContractError(f"{where} '{place}': found {found!r:.60}, expected {expected}")
    try:
        content.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can hold and UTF-8 cannot
        raise ContractError(f"{where} 'content': found {content[:60]!r}, expected valid Unicode") from error
    return message | {"role": role, "content": content}


def _in_turns(messages: Sequence[Message], dialect: Dialect, add_generation_prompt: bool) -> list[Message]:
    """Users and assistants in turns, a system message within the first user's."""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    turns = [dict(message) for message in messages[first:]]
    for number, message in enumerate(turns):
        wanted = ("user", "assistant")[number % 2]
        if message["role"] != wanted:
            raise ContractError(
                f"message {number + first}, field 'role': found {message['role']!r}, expected {wanted!r}: in "
                f"{dialect.name} users and assistants take turns, behind one system message at most"
            )
    if not turns or (add_generation_prompt and turns[-1]["role"] != "user"):
        found = turns[-1]["role"] if turns else "none"
        raise ContractError(f"messages: found {found!r} last, expected 'user': {dialect.name} answers a user alone")
    if first:
        turns[0]["system"] = messages[0]["content"]
    return turns


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tokens=None) -> list[int]:
    """Ids of a dialog followed by the header of the answer to be written: what a sampler continues."""
    return render(tokenizer, messages, add_generation_prompt=True, tokens=tokens).ids


def encode_answer(tokenizer: PreTrainedTokenizerBase, answer: Answer, tokens=None, finished: bool = True) -> list[int]:
    """Ids of an answer's content and calls, and its end (left out if the answer was cut before it ended).

    They are those that `render` gives behind the answer's header, unless white space at the beginning of the answer
    would join the header's last token: a sampler goes on from the header as it is.

    Raises:
        ContractError: an end or calls that the dialect does not have.
    """
    tokens = tokens or ControlTokens.of(tokenizer)
    message = _checked(as_message(answer), 0, tokens.dialect)
    content = content_of(message, tokens, still_open=not finished)
    header = tokens.headers["assistant"]
    alone = len(tokens.answer_header)
    whole = encode_pieces(tokenizer, [*header, *content], tokens).ids
    joined = tuple(whole[:alone]) != tokens.answer_header
    ids = encode_pieces(tokenizer, content, tokens).ids if joined else whole[alone:]
    return ids + [end for end, _ in _end_of(message, tokens)[:1]] * finished


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


def adopt(tokenizer: PreTrainedTokenizerBase) -> tuple[ControlTokens, str]:
    """Makes a tokenizer write and pad as the contract does, and says in words which dialect it is and what changed.

    It ends answers and pads with the contract's tokens. A chat template that writes other ids than the contract (or
    none) gives way to the one its dialect was published with, so that a saved checkpoint is asked as it was trained.

    Raises:
        ContractError: as `ControlTokens.of` does.
    """
    tokens = ControlTokens.of(tokenizer)
    said = [f"{tokens.dialect.name}'s form of dialogs"]
    for field, token in (("pad_token", tokens.pad), ("eos_token", tokens.eot)):
        name, found = tokenizer.convert_ids_to_tokens(token), getattr(tokenizer, field)
        if found != name:
            setattr(tokenizer, field, name)
            said.append(f"{field} {name} instead of {found}")
    if not _writes_alike(tokenizer, tokens):
        said.append(
            f"chat template of {tokens.dialect.name} instead of {'its own' if template_of(tokenizer) else 'none'}"
        )
        tokenizer.chat_template = tokens.dialect.chat_template
        tokens = ControlTokens.of(tokenizer)
    return tokens, ", ".join(said)


def _writes_alike(tokenizer: PreTrainedTokenizerBase, tokens: ControlTokens) -> bool:
    """Whether the tokenizer's chat template gives the contract's ids for a few dialogs."""
    if not template_of(tokenizer):
        return False
    for sample in SAMPLES:
        dialog = [{"role": role, "content": content} for role, content in sample]
        asked = [part for part in (dialog[:4], dialog[1:2], dialog) if part[-1]["role"] == "user"]
        for messages, prompt in [(dialog, False), (dialog[1:], False), *((part, True) for part in asked)]:
            if messages[0]["role"] == "assistant":
                continue
            ours = render(tokenizer, messages, add_generation_prompt=prompt, tokens=tokens).ids
            if templated(tokenizer, messages, add_generation_prompt=prompt, return_dict=False) != ours:
                return False
    return True
