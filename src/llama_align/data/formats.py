"""From one row of a public format to the fields of a record. Knows the shapes, not where the rows come from.

Shapes: TRL's (plain and conversational, explicit and implicit prompt, messages, prompt and completion), HH-RLHF's
transcripts, UltraFeedback's and HelpSteer's scores, and the project's own records, whose fields are among TRL's.
"""

import json
import re
import string
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import Any

from ..chat import Answer, as_answer, as_message
from .calls import check_order, introduce, plain
from .records import KINDS, Message, RecordError, is_number, show

# The names a row is read by, and so what `columns` may map to.
CONTENT = ("text", "system", "prompt", "messages", "completion", "response", "chosen", "rejected", "score")
DETAILS = {"source": str, "url": str, "date": str, "language": str, "scores": dict} | {
    "annotator": str,
    "round": int,
    "task": dict,
    "collected": dict,
}
STRICT = ("grade", "objective", "chosen_is_safe", "rejected_is_safe", "edited")
STRICT += ("finished", "chosen_finished", "rejected_finished")
SCORES = ("score_chosen", "score_rejected")
TOOLS = "tools"  # schemas of functions, which go into the dialog
NAMES = (*CONTENT, *DETAILS, *STRICT, *SCORES, TOOLS)
ALIASES = {
    "chosen_safe": "chosen_is_safe",
    "rejected_safe": "rejected_is_safe",
    "response": "completion",
    "helpfulness": "score",
    "functions": TOOLS,
}

MEANT = ("tool_plan", "thinking", "reasoning_content", "reasoning")
NOT_LEARNED = ("weight", "train", "loss")

_TURN = re.compile(r"\n\n(Human|Assistant):")
_TEXT = "text that is not empty"


class _Template(string.Formatter):
    """Fills `{column}` and `{column[item]}`; a null becomes nothing, and only text and numbers can be written."""

    def format_field(self, value: Any, spec: str) -> str:
        if value is not None and not isinstance(value, str | int | float):
            raise TypeError(f"{show(value)} where the template needs text or a number")
        return "" if value is None else format(value, spec)


def rename(row: dict, columns: dict[str, str], where: str) -> dict:
    """The row under the names of a record: a bare column name passes the value, a template such as "{a}\\n\\n{b}" text.

    With `columns`, content comes from the columns named there and from no other; other fields keep their own names.
    Raises RecordError when a column is missing.
    """
    new = {name: value for name, value in row.items() if name not in CONTENT}
    for name, column in columns.items():
        try:
            new[name] = _Template().format(column, **row).strip() if "{" in column else row[column]
        except KeyError as error:
            raise RecordError(where, f"columns.{name}", f"columns {', '.join(row)}", f"{error.args[0]!r}") from error
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            raise RecordError(where, f"columns.{name}", str(error), f"a row that fits {column!r}") from error
    return new


def with_aliases(row: dict) -> dict:
    """The row with the names other projects use (`response`, `chosen_safe`, ...) under ours, where ours is free."""
    return row | {ours: row[theirs] for theirs, ours in ALIASES.items() if theirs in row and row.get(ours) is None}


def wrong_type(name: str, value: Any) -> bool:
    """Whether a detail (source, url, ...) is of another type, as a column of that name may mean something else."""
    numbers = name != "scores" or (isinstance(value, dict) and all(map(is_number, value.values())))
    return not (numbers and isinstance(value, DETAILS[name]))


def fields_of(
    kind: str, row: dict, where: str, transcripts: bool = False, named: Collection[str] = ()
) -> dict[str, Any]:
    """The fields of a record of this kind in `row`; `transcripts` insists that the texts are HH-RLHF's.

    Details of the wrong type are left out, unless they are in `named`, what a user asked for; `columns` reports them.
    Raises RecordError where content is missing or of no known shape.
    """
    row = with_aliases(row)
    content = _READERS[kind](row, where, transcripts)
    if row.get(TOOLS) is not None:
        dialogs = {name: content[name] for name in ("messages", "prompt") if name in content}
        content |= {name: introduce(messages, row[TOOLS], where) for name, messages in dialogs.items()}
    known = KINDS[kind].names()
    details = {name: row[name] for name in DETAILS if name in named or not wrong_type(name, row.get(name))}
    strict = {name: row[name] for name in STRICT if row.get(name) is not None}
    return content | {name: value for name, value in (details | strict).items() if name in known}


def _document(row: dict, where: str, transcripts: bool) -> dict:
    return {"text": row.get("text")}


def _prompt(row: dict, where: str, transcripts: bool) -> dict:
    return {"messages": _prompt_messages(row, where, transcripts)}


def _demonstration(row: dict, where: str, transcripts: bool) -> dict:
    if row.get("completion") is None and (row.get("prompt") is None or passed_over("demonstration", row)):
        return {"messages": _prompt_messages(row | {"prompt": None}, where, transcripts)}
    return {"messages": [*_prompt_messages(row, where, transcripts), _said(row, "completion", where)]}


def _preference(row: dict, where: str, transcripts: bool) -> dict:
    sides = {name: row.get(name) for name in ("chosen", "rejected")}
    for name, side in sides.items():
        if side is None:
            raise RecordError(where, name, "nothing", _TEXT)
    has_prompt = row.get("prompt") is not None or row.get("messages") is not None
    if not has_prompt and (transcripts or is_transcript(sides["chosen"])):
        sides = {name: transcript(side, where, name) for name, side in sides.items()}
    if all(isinstance(side, list) for side in sides.values()) and (not has_prompt or len(sides["chosen"]) > 1):
        prompt, *answers = _part(*(_clean(side, where, name) for name, side in sides.items()), where)
        if isinstance(row.get("prompt"), list) and _clean(row["prompt"], where, "prompt") != prompt:
            found = f"a dialog that does not begin with the {len(row['prompt'])} messages of prompt"
            raise RecordError(where, "chosen", found, "prompt and one answer, or the answer alone")
        row = row | {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    chosen, rejected = (_answer(row, name, where) for name in sides)
    return {"prompt": _prompt_messages(row, where, transcripts), "chosen": chosen, "rejected": rejected}


_READERS = {
    "document": _document,
    "prompt": _prompt,
    "demonstration": _demonstration,
    "preference": _preference,
}


def prompt_of(row: dict) -> Any:
    """What a row is a prompt by; a table may give it both columns, one of them null."""
    return row["prompt"] if row.get("prompt") is not None else row.get("messages")


def passed_over(kind: str, row: dict) -> str | None:
    """Which of `prompt` and `messages` a row with both is not read by: a whole dialog may say again how it begins."""
    if row.get("prompt") is None or row.get("messages") is None:
        return None
    return "prompt" if kind == "demonstration" and row.get("completion") is None else "messages"


def _prompt_messages(row: dict, where: str, transcripts: bool) -> list:
    prompt = prompt_of(row)
    if isinstance(prompt, str) and (transcripts or _awaits_answer(prompt)):
        prompt = transcript(prompt, where, "prompt")
        if not prompt[-1]["content"]:  # some copies end the prompt with the header of the answer
            prompt.pop()
    elif isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    elif not isinstance(prompt, list):
        raise RecordError(where, "prompt", show(row), "text or a list of messages, in prompt or messages")
    system = row.get("system")
    field = "prompt" if row.get("prompt") is not None else "messages"
    if not prompt:
        raise RecordError(where, field, show(prompt), "text or a list of messages")
    prompt = _clean(prompt, where, field)
    return [{"role": "system", "content": system}, *prompt] if system else prompt


def _clean(messages: list, where: str, field: str) -> list:
    """Messages without what other projects add to them: further keys, and system messages that say nothing.

    Raises RecordError for a key without which a message means something else.
    """
    check_order(messages, where, field)
    cleaned = [_message(m, where, f"{field}[{i}]") if isinstance(m, dict) else m for i, m in enumerate(messages)]
    for message, after in pairwise(cleaned):
        if _role(message) == "assistant" and _role(after) == "ipython":
            message.setdefault("end", "eom")
    return [m for m in cleaned if not (_role(m) == "system" and m["content"] in (None, ""))]


def _role(message: Any) -> Any:
    return message["role"] if isinstance(message, dict) else None


def _message(message: dict, where: str, place: str) -> Message:
    for key in MEANT:
        if message.get(key):
            raise RecordError(
                where, f"{place}.{key}", show(message[key]), "a message that says what it says in content and calls"
            )
    for key in NOT_LEARNED:
        if message.get(key) is not None and not message[key]:
            raise RecordError(where, f"{place}.{key}", show(message[key]), "a message to learn like any other")
    return plain(message, where, place)


def _said(row: dict, name: str, where: str) -> Message:
    """An answer as a message, given as text or as one."""
    value = row.get(name)
    said = {"role": "assistant", "content": value}
    if isinstance(value, list | dict):
        value = [value] if isinstance(value, dict) else value
        if len(value) != 1 or not isinstance(value[0], dict) or value[0].get("role") != "assistant":
            raise RecordError(where, name, show(value), "text or one message from the assistant")
        said = _message(value[0], where, f"{name}[0]")
    if not isinstance(said["content"], str) or not (said["content"].strip() or said.get("tool_calls")):
        raise RecordError(where, name, show(said["content"]), _TEXT)
    return said


def _answer(row: dict, name: str, where: str) -> Answer:
    return as_answer(_said(row, name, where))


def _part(chosen: list[Message], rejected: list[Message], where: str) -> tuple[list, list, list]:
    """The common prompt of two whole dialogs and the last message of each."""
    if chosen[:-1] != rejected[:-1]:
        raise RecordError(where, "rejected", "a dialog that parts too early", "chosen's messages up to the last one")
    return chosen[:-1], chosen[-1:], rejected[-1:]


def is_transcript(value: Any) -> bool:
    """Whether this is a dialog in HH-RLHF's writing."""
    return isinstance(value, str) and ("\n\n" + value.lstrip()).startswith("\n\nHuman:")


def _awaits_answer(prompt: str) -> bool:
    """Whether a prompt is a transcript up to the header of its answer, which no user would have typed."""
    return is_transcript(prompt) and prompt.rstrip().endswith("\n\nAssistant:")


def transcript(text: Any, where: str, name: str) -> list[Message]:
    """The messages of "\\n\\nHuman: ...\\n\\nAssistant: ..."; raises RecordError for anything else."""
    if not is_transcript(text):
        raise RecordError(where, name, show(text), "a transcript that starts with 'Human:'")
    parts = _TURN.split("\n\n" + text.lstrip())[1:]
    roles = ({"Human": "user", "Assistant": "assistant"}[speaker] for speaker in parts[::2])
    return [{"role": role, "content": said.strip()} for role, said in zip(roles, parts[1::2], strict=True)]


def scored(row: dict, where: str) -> dict:
    """A row of one scored answer, under our names; raises RecordError without prompt, answer or score."""
    row = with_aliases(row)
    _prompt_messages(row, where, False)
    _answer(row, "completion", where)
    if not is_number(row.get("score")):
        raise RecordError(where, "score", show(row.get("score")), "a number")
    return row


def pair_up(rows: Iterable[tuple[str, dict]]) -> Iterator[tuple[str, dict]]:
    """Every pair of answers of one prompt whose scores differ, the higher one chosen, as rows of preferences."""
    groups: dict[str, list[tuple[str, dict]]] = {}
    for where, row in rows:
        key = json.dumps([row.get("system"), row.get(TOOLS), prompt_of(row)])
        groups.setdefault(key, []).append((where, row))
    for group in groups.values():
        for i, first in enumerate(group):
            for second in group[i + 1 :]:
                (where, best), (_, worst) = sorted((first, second), key=lambda item: -item[1]["score"])
                if best["score"] > worst["score"]:
                    answers = {"chosen": best["completion"], "rejected": worst["completion"]}
                    answers |= {"chosen_finished": best.get("finished"), "rejected_finished": worst.get("finished")}
                    yield where, best | answers | dict(zip(SCORES, (best["score"], worst["score"]), strict=True))


def convert(kind: str, wanted: str, row: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields of one kind of record from those of a richer one; raises RecordError where there is no way."""
    if kind == wanted:
        return row
    answer = {"preference": "chosen", "sample": "completion"}.get(kind)
    if wanted == "prompt" and kind != "document":
        messages = row["prompt"] if answer else row["messages"][:-1]
        return {"messages": messages} | {name: row.get(name) for name in ("objective", "source", "task")}
    if wanted == "demonstration" and answer:
        edited = row.get("edited")
        messages = [*row["prompt"], as_message(edited or row[answer])]
        finished = None if edited else row.get("chosen_finished" if kind == "preference" else "finished")
        return {"messages": messages, "source": row.get("source"), "finished": finished}
    raise RecordError(where, None, f"a {kind}", f"what can serve as a {wanted}")
