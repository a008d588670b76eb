"""Rows of Alpaca, ShareGPT and UltraFeedback under the names that `formats` reads.

Knows those three shapes; not where rows come from, nor what a record needs.
"""

from collections.abc import Callable
from typing import Any

from .opening import Row
from .records import Message, RecordError, is_number, show

SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "ipython",
    "function_response": "ipython",
    "tool_response": "ipython",
    "tool": "ipython",
}
CALLS = ("function_call", "tool_call")  # speakers whose words are the JSON of a call
# the ratings of the aspects before the overall score of the critique, which is known to hold 10 where 1 was meant
SCORES = ("fine-grained_score", "overall_score")

_OURS = {"prompt", "messages", "text", "completion", "response"}
_DIALOGS = ("messages", "prompt", "chosen", "rejected", "completion")


def detect(row: dict, kind: str) -> str | None:
    """Which of the three this row is of, if a record of this kind can be read from it; our own names go first."""
    if kind not in ("prompt", "demonstration", "preference") or _OURS & set(row):
        return None
    if isinstance(row.get("conversations"), list):
        return "sharegpt"
    if not isinstance(row.get("instruction"), str) or "context" in row:
        return None
    if kind == "preference" and isinstance(row.get("completions"), list):
        return "ultrafeedback"
    needed = {"prompt": ({"input"}, {"output"}, {"completions"}), "demonstration": ({"output"},)}
    fits = any(names <= set(row) for names in needed.get(kind, ({"chosen", "rejected"},)))
    return "alpaca" if fits else None


def alpaca(row: dict, where: str) -> dict:
    """`instruction` and `input` as prompt, after the questions and answers of `history`; `output` as completion."""
    parts = [_text(row, "instruction", where), _text(row, "input", where) if row.get("input") is not None else ""]
    asked = "\n\n".join(filter(str.strip, parts))
    if row.get("context"):  # Dolly's; where it belongs is the user's to say
        raise RecordError(where, "context", show(row["context"]), "none, or columns that place it")
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise RecordError(where, "history", show(history), "a list of [question, answer]")
    earlier = [_message(role, said) for turn in history for role, said in zip(("user", "assistant"), turn, strict=True)]
    new = row | {"prompt": [*earlier, _message("user", asked)]}
    return new if row.get("output") is None else new | {"completion": row["output"]}


def sharegpt(row: dict, where: str) -> dict:
    """`conversations` as messages; turns of `from` and `value`, also in chosen and rejected, as role and content."""
    row = row | ({"messages": row["conversations"]} if row.get("conversations") is not None else {})
    if not any(isinstance(row.get(name), list | dict) for name in _DIALOGS):
        raise RecordError(where, "conversations", show(row.get("conversations")), "a list of turns with from and value")
    return row | {name: _turns(row[name], where, name) for name in _DIALOGS if isinstance(row.get(name), list | dict)}


def _turns(value: list | dict, where: str, name: str) -> list:
    turns = value if isinstance(value, list) else [value]
    return [_turn(turn, where, f"{name}[{i}]") for i, turn in enumerate(turns)]


def _turn(turn: Any, where: str, place: str) -> Any:
    if not isinstance(turn, dict) or "from" not in turn:
        return turn  # already a message, or what the record will refuse
    speaker = turn["from"]
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise RecordError(where, f"{place}.from", show(speaker), f"one of {', '.join(SPEAKERS)}")
    beside = {key: value for key, value in turn.items() if key not in ("from", "value")}
    if speaker in CALLS:
        if not turn.get("value"):
            raise RecordError(where, f"{place}.value", show(turn.get("value")), "the JSON of a call")
        return beside | _message("assistant", "") | {"function_call": turn["value"]}
    return beside | _message(SPEAKERS[speaker], turn.get("value"))


def ultrafeedback(row: dict, where: str) -> list[Row]:
    """Every one of `completions` as a row with prompt, response, score and the ratings by name.

    The score is the mean of the ratings of `annotations`, else `fine-grained_score` or `overall_score`.
    """
    prompt, completions = _text(row, "instruction", where), row.get("completions")
    if not isinstance(completions, list) or not completions:
        raise RecordError(where, "completions", show(completions), "a list of answers with their ratings")
    common = {name: value for name, value in row.items() if name != "completions"} | {"prompt": prompt}
    return [(place := f"{where}, completions[{i}]", _answer(one, common, place)) for i, one in enumerate(completions)]


def _answer(completion: Any, common: dict, where: str) -> dict | RecordError:
    try:
        if not isinstance(completion, dict):
            raise RecordError(where, None, show(completion), "an object with response and annotations")
        ratings = _ratings(completion.get("annotations") or {}, where)
        scores = [completion[name] for name in SCORES if completion.get(name) is not None]
        score = sum(ratings.values()) / len(ratings) if ratings else next(iter(scores), None)
        if not is_number(score):
            raise RecordError(where, "annotations", show(score), f"ratings in annotations, or {' or '.join(SCORES)}")
        own = {name: value for name, value in completion.items() if name != "annotations"}
        return common | own | ratings | {"score": score}
    except RecordError as error:
        return error


def _ratings(annotations: Any, where: str) -> dict[str, float]:
    if not isinstance(annotations, dict):
        raise RecordError(where, "annotations", show(annotations), "an object of ratings by aspect")
    ratings = {}
    for aspect, annotation in annotations.items():
        value = annotation.get("Rating") if isinstance(annotation, dict) else annotation
        try:
            ratings[aspect] = float(value)
        except (TypeError, ValueError):
            ratings[aspect] = None
        if not is_number(ratings[aspect]):
            raise RecordError(where, f"annotations.{aspect}.Rating", show(value), "a number")
    return ratings


def _text(row: dict, name: str, where: str) -> str:
    if not isinstance(row.get(name), str):
        raise RecordError(where, name, show(row.get(name)), "text")
    return row[name]


def _message(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


# one row to one; UltraFeedback's become several
READERS: dict[str, Callable[[dict, str], dict]] = {"alpaca": alpaca, "sharegpt": sharegpt}
COMMUNITY = (*READERS, "ultrafeedback")
