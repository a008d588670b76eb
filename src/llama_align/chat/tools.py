"""Tool calls as Llama 3.1 writes them: what an assistant's message with calls says, as Meta's `ChatFormat` has it.

A call is `{"name": ..., "arguments": {...}}`, also inside OpenAI's `{"type": "function", "function": ...}`. Knows text
alone; the ids are `contract`'s.
"""

import json
from collections.abc import Sequence
from typing import Any

from .dialects import PYTHON_TAG

CODE = "code_interpreter"
SEARCHES = ("brave_search", "wolfram_alpha", "photogen")
CALL = "an object of name and arguments"
TOOLS_ON = "Environment: ipython"  # with which a system message says that there are tools

Message = dict[str, Any]
Answer = str | Message  # an answer is its text, or the whole message where it calls a tool or waits for one

# Llama 3.1's words for one's own tools (llama-models, prompt_format.md), in the system message as Llama 3.2 has them
_TOOLS = """Answer the user's question by making use of the following functions if needed.
If none of the function can be used, please say so.
Here is a list of functions in JSON format:
{tools}

Return function calls in JSON format."""


def calls_of(message: Message) -> list[dict]:
    """The calls of a message, each as name and arguments."""
    return [call.get("function", call) if isinstance(call, dict) else call for call in message.get("tool_calls") or ()]


def fault(message: Message) -> tuple[str, Any, str] | None:
    """What is wrong with the calls of a message: where in it, what was found, what was expected; None if nothing is."""
    given = message.get("tool_calls")
    if not given:
        return None
    if message.get("role") != "assistant" or not isinstance(given, list):
        return "tool_calls", given, "a list of calls, in a message from the assistant"
    for i, (outer, call) in enumerate(zip(given, calls_of(message), strict=True)):
        place = f"tool_calls[{i}]"
        if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
            return place, call, CALL
        if outer is not call and (
            set(outer) - {"id", "type", "function"} or outer.get("type", "function") != "function"
        ):
            return place, outer, 'one of type "function" with id and function'
        if not isinstance(call["name"], str) or not call["name"].strip():
            return f"{place}.name", call["name"], "the name of a tool"
        if (wrong := _fault_of(call["name"], call["arguments"])) is not None:
            return f"{place}.arguments", call["arguments"], wrong
    return None


def _fault_of(name: str, arguments: Any) -> str | None:
    only = "code" if name == CODE else "query" if name in SEARCHES else None
    if only and not (isinstance(arguments, dict) and set(arguments) == {only} and isinstance(arguments[only], str)):
        return f"an object of {only} alone, a text, as {name} has it"
    if not isinstance(arguments, dict):
        return "an object of arguments by name"
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError):
        return "what JSON can hold"
    return None


def written(call: dict) -> str:
    """A call as text: `ToolUtils.encode_tool_call` of Meta's llama-models, in its form `json`."""
    name, arguments = call["name"], call["arguments"]
    if name == CODE:
        return arguments["code"]
    if name in SEARCHES:
        return f'{name}.call(query="{arguments["query"]}")'
    return json.dumps({"type": "function", "name": name, "parameters": arguments})


def spoken(message: Message) -> tuple[bool, list[str]]:
    """Whether the python tag opens a message, and the texts it consists of, each encoded by itself as Meta does."""
    calls = calls_of(message)
    return bool(calls) and calls[0]["name"] == CODE, [message["content"].strip(), *map(written, calls)]


def as_text(answer: Answer) -> str:
    """What an answer says, to read and to judge: its content and calls, the python tag by its name."""
    if isinstance(answer, str):
        return answer
    tagged, texts = spoken(answer)
    return PYTHON_TAG * tagged + "".join(texts)


def settled(answer: Answer) -> Answer:
    """What becomes of an answer when it is encoded: equal ones are the same."""
    return answer.strip() if isinstance(answer, str) else answer | {"content": answer["content"].strip()}


def as_message(answer: Answer) -> Message:
    """An answer as the message it is."""
    return {"role": "assistant", "content": answer} if isinstance(answer, str) else answer


def as_answer(message: Message) -> Answer:
    """A message from the assistant as an answer: its text alone, where it says no more."""
    return message if message.get("tool_calls") or message.get("end") == "eom" else message["content"]


def sampled(parts: Sequence[str], end: str) -> Answer:
    """The answer whose texts between python tags are these.

    What follows a tag at its start is what Meta's format calls code, whatever is in it (a search, a call in JSON): so
    the answer encodes to what was sampled. A tag elsewhere is no call there, and stays in the text by its name.
    """
    message = {"role": "assistant", "content": PYTHON_TAG.join(parts).strip()}
    if len(parts) > 1 and not parts[0].strip():
        code = PYTHON_TAG.join(parts[1:])
        message |= {"content": "", "tool_calls": [{"name": CODE, "arguments": {"code": code}}]}
    return as_answer(message | {"end": end})


def with_tools(messages: Sequence[Message], tools: Sequence[dict]) -> list[Message]:
    """The dialog with a list of tools (schemas of functions) in its system message, in Meta's words."""
    system = messages[0]["content"] if messages and messages[0].get("role") == "system" else None
    said = _TOOLS.format(tools="\n".join(json.dumps(tool, indent=4, ensure_ascii=False) for tool in tools))
    content = "\n\n".join(filter(None, (TOOLS_ON, system, said)))
    return [{"role": "system", "content": content}, *messages[system is not None :]]
