"""Data files with one bad row among good ones, in every format that is read."""

import copy
import gzip
import json
import lzma
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_align.data import load_records

from .trial import OTHER, SAME, Trial, changed_bytes

USER, ANSWER = {"role": "user", "content": "bado kilu?"}, {"role": "assistant", "content": "mete nora"}
SYSTEM = {"role": "system", "content": "du"}
PAIR = {"grade": "better", "objective": "helpfulness"}
SAMPLE = {"finished": True, "checkpoint": "a", "temperature": 1.0, "seed": 0, "rewards": {"r": 0.5}}
# kind of record, format -> a good row
GOOD: dict[tuple[str, str], dict] = {
    ("document", "auto"): {"text": "bado kilu", "source": "a", "url": "b", "date": "2024-01-01"},
    ("prompt", "auto"): {"messages": [SYSTEM, USER], "objective": "safety", "task": {"family": "a", "answer": 3}},
    ("demonstration", "auto"): {"messages": [USER, ANSWER, USER, ANSWER], "source": "a"},
    ("demonstration", "trl"): {"prompt": "bado", "completion": "me"},
    ("preference", "records"): {
        **{"prompt": [USER], "chosen": "a", "rejected": "b", "chosen_is_safe": True, "rejected_is_safe": False},
        **{"annotator": "x", "round": 1, "edited": "c", **PAIR},
    },
    ("preference", "trl"): {"prompt": "bado", "chosen": "a", "rejected": "b", **PAIR},
    ("preference", "hh"): {
        "chosen": "\n\nHuman: a\n\nAssistant: b",
        "rejected": "\n\nHuman: a\n\nAssistant: c",
        **PAIR,
    },
    ("sample", "auto"): {"prompt": [USER], "completion": "a", "objective": "helpfulness", **SAMPLE},
}
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "a number": 7,
    "a negative number": -1,
    "a number beyond 64 bits": 10**40,
    "a fraction": 0.5,
    "an empty text": "",
    "blanks": " \n\t",
    "another text": "zoqui",
    "a text with a null character": "a\0b",
    "a control token": "<|eot_id|>",
    "a list": [],
    "a list of lists": [[[]]],
    "an object": {},
    "an object of objects": {"a": {"b": {}}},
}
# texts that JSON or Python's reader of it takes, and that no record can hold
RAW = {
    "nan": "NaN",
    "infinity": "-Infinity",
    "a number of 5,000 digits": "9" * 5000,
    "a lone surrogate": '"\\ud800"',
    "deep nesting": "[" * 5000 + "]" * 5000,
    "moderate nesting": "[" * 500 + "]" * 500,
    "a number too large for a float": "1e999",
}
OF_ANOTHER_TYPE = "public data has columns of these names for things of its own; the report names those not read"
ACCEPTED = {
    "* another text": "another text of the same field is another value",
    "* a control token": "text stays text: it is never a control token, see tests/chat",
    "* a text with a null character": "a character as any other in a text",
    "*.task: *": "free form: a judge says what it understands",
    "*.task.*: *": "free form: a judge says what it understands",
    "*: null": "a null is a field that is not there",
    "*: removed": "fields in brackets in docs/design.md are optional",
    "*.seed: a n*": "any whole number",
    "*.round: a n*": "any whole number",
    "*.temperature: *": "any number of at least 0",
    "*.rewards*: *": "any number by any name, or none",
    "*.finished: true": "it is one of two",
    "*_is_safe: true": "it is one of two",
    "prompt.messages.content: an empty text": "an empty system message, of which public data is full, says nothing",
    "sample.completion: *": "an answer may be nothing; such a one is left out and counted where the best are chosen",
    "document.url: *": OF_ANOTHER_TYPE,
    "document.date: *": OF_ANOTHER_TYPE,
    "*.source: *": OF_ANOTHER_TYPE,
    "preference.annotator: *": OF_ANOTHER_TYPE,
    "bytes flipped": "another letter in a text is another text",
    "bytes lost": "another letter in a text is another text",
    "bytes doubled": "another letter in a text is another text",
    "bytes cut": "a file cut between two lines is a shorter file",
}


def paths_of(value: Any, keys: tuple = ()) -> Iterator[tuple]:
    """Where every value within a row stands."""
    if keys:
        yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_of(item, (*keys, key))


def put(row: dict, keys: tuple, value: Any, remove: bool = False) -> dict:
    """A copy of a row with another value at a place."""
    row = copy.deepcopy(row)
    inner = row
    for key in keys[:-1]:
        inner = inner[key]
    if remove:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return row


def changed_line(draw: random.Random, good: dict) -> tuple[str, str]:
    """The kind of a change, and a line with it."""
    keys = draw.choice([*paths_of(good)])
    name = ".".join(str(key) for key in keys if not isinstance(key, int))
    how = draw.choice(["value", "value", "raw", "removed", "unknown", "twice", "not an object"])
    if how == "value":
        kind, value = draw.choice([*VALUES.items()])
        return f"{name}: {kind}", json.dumps(put(good, keys, value))
    if how == "raw":
        kind, raw = draw.choice([*RAW.items()])
        return f"{name}: {kind}", json.dumps(put(good, keys, "@@")).replace('"@@"', raw)
    if how == "removed":
        return f"{name}: removed", json.dumps(put(good, keys, None, remove=True))
    if how == "unknown":
        return "an unknown field", json.dumps(good | {draw.choice(["chosn", "x" * 300, "Text", "ö"]): "a"})
    if how == "twice":
        line = json.dumps(good)
        return f"{name}: twice", line[:-1] + f', "{keys[0]}": {json.dumps(good[keys[0]])}' + "}"
    return "a line that is no object", draw.choice(["null", "5", '"a"', "[1]", "{}", "{", "}", "nul", "\x00", "{}{}"])


def trials(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    draw = random.Random(f"rows/{seed}")
    for number in range(count):
        (kind, form), good = draw.choice([*GOOD.items()])
        if kind == "document" and draw.random() < 0.5:
            good = {"text": "bado"}
        whole = json.dumps(good)
        if draw.random() < 0.8:
            change, line = changed_line(draw, good)
            content = "\n".join([whole, line, whole]).encode()
        else:
            how, content = changed_bytes(draw, "\n".join([whole] * 3).encode())
            change = f"bytes {how}"
        suffix = draw.choice([".jsonl"] * 6 + [".jsonl.gz", ".jsonl.xz"])
        pack = {".jsonl.gz": gzip.compress, ".jsonl.xz": lzma.compress}.get(suffix, bytes)
        if suffix != ".jsonl" and draw.random() < 0.5:
            change, content = f"damaged {suffix}", "\n".join([whole] * 3).encode()
            _, packed = changed_bytes(draw, pack(content))
        else:
            packed = pack(content)
        skip = draw.choice(["error", "error", "count"])
        source = {"path": str(folder / f"{number}{suffix}"), "format": form, "skip": skip}
        Path(source["path"]).write_bytes(packed)
        yield Trial(
            f"{kind}.{change}" if ": " in change else change,
            _reading(source, kind, good, folder),
            f"{source} {content!r}",
        )
        Path(source["path"]).unlink()


def _reading(source: dict, kind: str, good: dict, folder: Path):
    def run() -> str:
        clean = folder / "clean.jsonl"
        clean.write_text(json.dumps(good) + "\n")
        (expected,), _ = load_records([source | {"path": str(clean), "name": "a"}], kind)
        found, report = load_records([source | {"name": "a"}], kind)
        assert all(json.loads(json.dumps(record.to_dict())) == record.to_dict() for record in found)
        str(report).encode()
        for record in found:
            json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False).encode()
        if source["skip"] == "count":  # the bad row is left out and counted
            return SAME if all(record == expected for record in found) else OTHER
        return SAME if found == [expected] * 3 else OTHER

    return run
