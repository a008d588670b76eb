"""What came out, as Preference records, and in the forms that Argilla and Potato read."""

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

from ..data import Preference
from . import forms
from .store import ANSWERED, Store, Work

# form -> name of the file that has it
FORMS = {"records": "preferences.jsonl", "argilla": "argilla.json", "potato": "potato.zip"}


def counted(store: Store) -> Iterator[Work]:
    """Answers that count: no gold, and none that a second look has sent back."""
    back = store.sent_back()
    for work in store.works("state = ?", ANSWERED):
        if work.item.gold is None and (work.item.id, work.person) not in back:
            yield work


def preferences(store: Store) -> list[Preference]:
    """A record of every answer that counts, by item, person and turn."""
    return [_preference(work, store.batch.settings.round) for work in counted(store)]


def _preference(work: Work, number: int) -> Preference:
    sides = work.chosen, 1 - work.chosen
    chosen, rejected = (work.answers[side] for side in sides)
    safe = [work.safe[side] for side in sides] if work.safe else [None, None]
    collected = {
        "item": work.item.id,
        "turn": work.turn,
        "seconds": work.seconds,
        "models": [chosen.model, rejected.model],
        "temperatures": [chosen.temperature, rejected.temperature],
        "sides": None if work.first is None else ["left" if side == work.first else "right" for side in sides],
        "flag": work.flag,
    }
    return Preference(
        prompt=work.prompt,
        chosen=chosen.answer,
        rejected=rejected.answer,
        grade=work.grade,
        objective=work.item.objective,
        chosen_is_safe=safe[0],
        rejected_is_safe=safe[1],
        annotator=work.person,
        round=number,
        source=work.item.source,
        edited=work.edited,
        chosen_finished=chosen.finished,
        rejected_finished=rejected.finished,
        collected={name: value for name, value in collected.items() if value not in (None, [None, None])},
    )


def rows_as_bytes(store: Store, form: str) -> bytes:
    """A file of one of `FORMS`."""
    if form == "records":
        return b"".join(_line(record.to_dict()) for record in preferences(store))
    works = list(counted(store))
    if form == "argilla":
        return json.dumps(forms.to_argilla(works), ensure_ascii=False, indent=1).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in forms.to_potato(works).items():
            text = content if isinstance(content, str) else "".join(_line(row).decode() for row in content)
            archive.writestr(name, text)
    return packed.getvalue()


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()
