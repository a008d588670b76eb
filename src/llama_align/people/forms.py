"""The forms of other tools: pairs and answers as Argilla's records (2.x, `records.to_json`) and Potato's files (2.x).

Both ways, so that a batch can be begun there and ended here. What neither has a place for (sides, models, seconds)
travels in their metadata. Safety labels and edits have questions of their own in Argilla and none in Potato.
"""

import json
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..chat import as_text
from ..data import GRADES, OBJECTIVES, RecordError
from .batch import Candidate, Item
from .store import Work

SCHEME = "preference"  # the question's name, there as here
ANSWERS = ("response_1", "response_2")
SAFE = ("response_1_is_safe", "response_2_is_safe")
CONFIG = """\
annotation_task_name: preferences
data_files: [data.jsonl]
item_properties: {id_key: id, text_key: prompt}
output_annotation_dir: annotation_output
annotation_schemes:
  - annotation_type: pairwise
    name: preference
    description: "Which answer is better, and by how much (1 negligibly, 2 slightly, 3 better, 4 significantly)?"
    mode: scale
    items_key: responses
    scale: {min: -4, max: 4, step: 1, default: 0}
"""


# -- out


def to_argilla(works: Iterable[Work]) -> list[dict[str, Any]]:
    """Records with fields prompt (a chat), response_1 and response_2, and one response of everybody who answered.

    Argilla knows users by UUID; names are in the metadata, in the order of the responses.
    """
    rows = []
    for number, ((item, turn, _), group) in enumerate(_by_pair(works).items()):
        first = group[0]
        fields = {"prompt": first.prompt} | _texts(first)
        people = [work.person for work in group]
        responses = {SCHEME: [_said(work, _label(work)) for work in group]}
        for side, name in enumerate(SAFE):
            if said := [_said(work, "safe" if work.safe[side] else "unsafe") for work in group if work.safe]:
                responses[name] = said
        if edits := [_said(work, work.edited) for work in group if work.edited is not None]:
            responses["edited"] = edits
        metadata = {"objective": first.item.objective, "turn": turn, "annotators": json.dumps(people)}
        metadata |= {"seconds": json.dumps([work.seconds for work in group])}
        name = f"{item}-{turn}-{number}"  # conversations of several people are rows of their own
        rows.append({"id": name, "fields": fields, "metadata": metadata, "suggestions": {}, "responses": responses})
    return rows


def _by_pair(works: Iterable[Work]) -> dict[tuple, list[Work]]:
    """Those who answered the same pair of answers, together."""
    groups: dict[tuple, list[Work]] = defaultdict(list)
    for work in works:
        own = work.person if work.item.answers is None or work.turn > 1 else ""
        groups[work.item.id, work.turn, own].append(work)
    return groups


def _texts(work: Work) -> dict[str, str]:
    return {name: as_text(one.answer) for name, one in zip(ANSWERS, work.answers, strict=True)}


def _label(work: Work) -> str:
    return f"{ANSWERS[work.chosen]} {work.grade}"


def _said(work: Work, value: str) -> dict[str, str]:
    return {"value": value, "user_id": str(uuid.uuid5(uuid.NAMESPACE_OID, work.person)), "status": "submitted"}


def to_potato(works: Iterable[Work]) -> dict[str, Any]:
    """Files by name: data, a configuration, and what everybody said, on its scale from -4 (the first) to 4."""
    data, said = [], defaultdict(list)
    for number, ((item, turn, _), group) in enumerate(_by_pair(works).items()):
        name = f"{item}-{turn}-{number}"
        first = group[0]
        texts = list(_texts(first).values())
        data.append({"id": name, "prompt": first.prompt, "responses": texts, "objective": first.item.objective})
        for work in group:
            label = {SCHEME: {"scale_value": str(work.score)}}
            said[work.person].append(
                {"id": name, "displayed_text": "", "label_annotations": label, "seconds": work.seconds}
            )
    files = {f"annotation_output/{person}/annotated_instances.jsonl": rows for person, rows in sorted(said.items())}
    return {"config.yaml": CONFIG, "data.jsonl": data} | files


# -- in


def from_argilla(path: Path) -> tuple[list[Item], list[dict[str, Any]]]:
    """Items, and events of what was answered already.

    Raises:
        RecordError: a record without prompt and two answers, or with a label that is none of ours.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RecordError(str(path), None, str(error), "a list of records, as Argilla's to_json writes it") from error
    items, events = [], []
    for number, row in enumerate(rows if isinstance(rows, list) else [], start=1):
        where = f"{path}, record {number}"
        fields, metadata = (row.get(name) or {} for name in ("fields", "metadata"))
        item = _item(f"a{number:06d}", fields.get("prompt"), [fields.get(n) for n in ANSWERS], metadata, where)
        items.append(item)
        responses = row.get("responses") or {}
        names = json.loads(metadata.get("annotators") or "[]")
        for place, one in enumerate(responses.get(SCHEME, [])):
            user = one["user_id"]
            person = names[place] if place < len(names) else user
            chosen, grade = _read_label(one["value"], where)
            safe = [_of_user(responses.get(name), user) for name in SAFE]
            events.append(
                _event(item, person, chosen, grade)
                | {"safe": [value == "safe" for value in safe] if None not in safe else None}
                | {"edited": _of_user(responses.get("edited"), user)}
            )
    return items, events


def _of_user(responses: list[dict] | None, user: str) -> str | None:
    return next((one["value"] for one in responses or () if one["user_id"] == user), None)


def _read_label(label: Any, where: str) -> tuple[int, str]:
    name, _, grade = str(label).partition(" ")
    if name not in ANSWERS or grade not in GRADES:
        raise RecordError(where, SCHEME, repr(label), f"{' or '.join(ANSWERS)} and one of {', '.join(GRADES)}")
    return ANSWERS.index(name), grade


def from_potato(folder: Path) -> tuple[list[Item], list[dict[str, Any]]]:
    """Items of `data.jsonl`, and events of what everybody said in `annotation_output`.

    Raises:
        RecordError: a row without prompt and two answers, or a value beyond the scale, or 0: one has to be chosen.
    """
    items = {}
    for where, row in _lines(folder / "data.jsonl"):
        answers = row.get("responses") or [row.get("left"), row.get("right")]
        name = str(row.get("id"))
        items[name] = _item(f"p{len(items) + 1:06d}", row.get("prompt"), answers, row, where)
    events = []
    for path in sorted(folder.glob("annotation_output/*/annotated_instances.jsonl")):
        for where, row in _lines(path):
            value = ((row.get("label_annotations") or {}).get(SCHEME) or {}).get("scale_value")
            score = int(value) if str(value).lstrip("-").isdigit() else 0
            if row.get("id") not in items or not 1 <= abs(score) <= len(GRADES):
                raise RecordError(
                    where, SCHEME, repr(value), f"-{len(GRADES)} to {len(GRADES)} but 0, of a row of data.jsonl"
                )
            grade = GRADES[len(GRADES) - abs(score)]
            events.append(_event(items[row["id"]], path.parent.name, int(score > 0), grade))
    return list(items.values()), events


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise RecordError(f"{path}, line {number}", None, str(error), "a row as JSON") from error
            yield f"{path}, line {number}", row


def _item(name: str, prompt: Any, answers: list, details: dict, where: str) -> Item:
    if isinstance(prompt, str) and prompt.strip():
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise RecordError(where, "prompt", repr(prompt), "text or messages")
    if len(answers) != 2 or not all(isinstance(one, str) and one.strip() for one in answers):
        raise RecordError(where, "responses", repr(answers)[:60], f"two texts ({', '.join(ANSWERS)})")
    objective = details.get("objective", "helpfulness")
    if objective not in OBJECTIVES:
        raise RecordError(where, "objective", repr(objective), " or ".join(OBJECTIVES))
    return Item(name, objective, prompt, (Candidate(answers[0]), Candidate(answers[1])), source=details.get("source"))


def _event(item: Item, person: str, chosen: int, grade: str) -> dict[str, Any]:
    said = {"item": item.id, "person": person, "turn": 1, "chosen": chosen, "grade": grade, "ended": True}
    return said | dict.fromkeys(("first", "safe", "edited", "seconds"))  # what nobody knows any more
