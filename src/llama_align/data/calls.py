"""Messages with tools in the forms of other projects, as messages of ours: OpenAI's, its older one, ShareGPT's, Meta's.

Knows keys and roles; what a call is as text, `chat.tools` knows.
"""

from collections.abc import Sequence
from typing import Any

from ..chat import CODE, PYTHON_TAG, Message, fault, with_tools
from .decoding import Decoder, refuse_unsound
from .records import RecordError, show

CALLED = ("tool_calls", "function_call", "recipient")
ANSWERS = ("tool", "function", "ipython")
_NOBODY = (None, "", "all", "user", "assistant")  # recipients that are nobody but the other side
_PYTHON = ("python", "ipython", CODE)


def keys_read(message: Message) -> tuple[str, ...]:
    """The keys of a message that are read, whatever its form."""
    answer = ("tool_call_id", "name") if message.get("role") in ANSWERS else ()
    return ("role", "content", "end", *CALLED, *answer)


def plain(message: Message, where: str, place: str) -> Message:
    """The role, content, calls and end of a message.

    A call of a message that says nothing else of its end ends with `eom`: a tool will answer.

    Raises:
        RecordError: calls that are none, or in two forms at once, or a recipient whose arguments are no object.
    """
    role, content = message.get("role"), message.get("content")
    role = "ipython" if isinstance(role, str) and role in ANSWERS else role
    end = {} if message.get("end") is None else {"end": message["end"]}
    forms = [name for name in CALLED if message.get(name) and not (name == "recipient" and message[name] in _NOBODY)]
    if not forms:
        if role == "assistant" and isinstance(content, str) and content.lstrip().startswith(PYTHON_TAG):
            cure = f'tool_calls: [{{"name": "{CODE}", "arguments": {{"code": ...}}}}], as text is never a control token'
            raise RecordError(where, f"{place}.content", show(content), cure)
        return {"role": role, "content": content} | end
    if len(forms) > 1 or message.get("tool_call_id"):
        other = forms[1] if len(forms) > 1 else "tool_call_id"
        raise RecordError(where, f"{place}.{other}", f"it beside {forms[0]}", "a call, or a tool's answer")
    field = f"{place}.{forms[0]}"
    if forms == ["recipient"]:
        calls, content = [_to(message["recipient"], content, where, field)], ""
    else:
        given = message[forms[0]]
        given = _json(given, where, field) if isinstance(given, str) else given
        given = given if isinstance(given, list) else [given]
        calls = [_call(call, where, f"{field}[{i}]" if len(given) > 1 else field) for i, call in enumerate(given)]
    made = {"role": role, "content": "" if content is None else content, "tool_calls": calls} | ({"end": "eom"} | end)
    if wrong := fault(made):
        raise RecordError(where, f"{place}.{wrong[0]}", show(wrong[1]), wrong[2])
    return made


def _call(call: Any, where: str, field: str) -> dict:
    """One call as name and arguments, out of OpenAI's, Meta's (`parameters`) or the bare form."""
    if isinstance(call, dict) and call.get("function") is not None:
        _only(call, ("id", "type", "index", "function"), where, field)
        call, field = call["function"], f"{field}.function"
    if not isinstance(call, dict):
        raise RecordError(where, field, show(call), "a call with name and arguments")
    _only(call, ("id", "type", "index", "name", "arguments", "parameters"), where, field)
    given = [name for name in ("arguments", "parameters") if call.get(name) is not None]
    if len(given) > 1:
        raise RecordError(where, field, "arguments and parameters", "one of the two")
    arguments = call[given[0]] if given else {}
    if isinstance(arguments, str):
        arguments = _json(arguments, where, f"{field}.{given[0]}") if arguments.strip() else {}
    if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
        raise RecordError(where, field, show(call), "a name, and arguments that are an object or its JSON")
    return {"name": call["name"], "arguments": arguments}


def _only(call: dict, known: Sequence[str], where: str, field: str) -> None:
    for name, value in call.items():
        if value is not None and name not in known:
            raise RecordError(where, f"{field}.{name}", show(value), f"only {', '.join(known)}")
    if call.get("type", "function") not in ("function", None):
        raise RecordError(where, f"{field}.type", show(call["type"]), "'function'")


def _to(recipient: Any, content: Any, where: str, field: str) -> dict:
    """A message to a recipient as a call: code for Python, arguments for a function."""
    if not isinstance(recipient, str) or not isinstance(content, str):
        raise RecordError(where, field, show(recipient), "the name of a tool, and content that is text")
    if recipient in _PYTHON:
        return {"name": CODE, "arguments": {"code": content}}
    arguments = _json(content, where, field)
    if not isinstance(arguments, dict):
        raise RecordError(where, field, f"content that is {show(arguments)}", "the arguments as a JSON object")
    return {"name": recipient.removeprefix("functions."), "arguments": arguments}


def _json(text: str, where: str, field: str) -> Any:
    try:
        value, suspect = Decoder().decode(text.strip(), where, "JSON")
    except RecordError as error:
        raise RecordError(where, field, error.found, "whole JSON") from error
    if suspect:
        refuse_unsound(value, where, field)
    return value


def check_order(messages: Sequence[Any], where: str, field: str) -> None:
    """Raises RecordError where a tool's answer names another call than the one whose turn it is.

    A dialog of tokens has no ids: the first answer after a message with calls is that of the first call, and so on.
    """
    waiting: list[dict] = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            return  # which the record will refuse
        if message.get("role") not in ANSWERS:
            calls, call = message.get("tool_calls"), message.get("function_call")
            waiting = calls if isinstance(calls, list) and calls else [{"function": call}] if call else []
            waiting = [call for call in waiting if isinstance(call, dict)]
            continue
        call = waiting.pop(0) if waiting else {}
        function = call.get("function", call)
        function = function if isinstance(function, dict) else {}
        for key, wanted in (("tool_call_id", call.get("id")), ("name", function.get("name"))):
            found = message.get(key)
            if found is not None and wanted is not None and found != wanted:
                expected = f"{show(wanted)}, of the call whose turn it is: answers stand in the order of their calls"
                raise RecordError(where, f"{field}[{i}].{key}", show(found), expected)


def introduce(messages: list, tools: Any, where: str) -> list:
    """A dialog that begins with its `tools`, schemas of functions or their JSON.

    Raises:
        RecordError: tools that are no schemas.
    """
    given = _json(tools, where, "tools") if isinstance(tools, str) and tools.strip() else tools
    if not given:
        return messages
    expected = "a list of functions, each with name, description and parameters, or its JSON (or ignore: [tools])"
    if not isinstance(given, list):
        raise RecordError(where, "tools", show(given), expected)
    schemas = []
    for i, tool in enumerate(given):
        tool = _json(tool, where, f"tools[{i}]") if isinstance(tool, str) and tool.lstrip()[:1] == "{" else tool
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError(where, f"tools[{i}]", show(tool), expected)
        schemas.append(tool if function is not tool else {"type": "function", "function": tool})
    return with_tools(messages, schemas)


def without_filled(value: Any, inside: bool = False) -> Any:
    """A row of a table without the nulls in its calls and tools: a table gives every call the arguments of all."""
    if isinstance(value, list):
        return [without_filled(part, inside) for part in value]
    if not isinstance(value, dict):
        return value
    kept = {name: part for name, part in value.items() if not (inside and part is None)}
    return {
        name: without_filled(part, inside or name in ("tool_calls", "function_call", "tools", "functions"))
        for name, part in kept.items()
    }
