"""Digests of what a stored result came from, so that it is never taken for the result of something else."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file, extract_commit_hash

from .manifest import file_digest

ADAPTER = "adapter_config.json"
BASE, MERGED = "base", "merged.json"  # a run's merged start, and what says so in it
# what decides the tokens and scores of a checkpoint; logs, model cards and trainer states beside it do not
DECISIVE = ("config.json", ADAPTER, "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "*.safetensors")


def checkpoint_digest(path: str, revision: str | None = None) -> str:
    """Digest of the content of a checkpoint directory, wherever and whenever written, and of an adapter's base.

    A name on the Hub is followed by its commit where transformers knows that, which it does offline, too, for what it
    has downloaded.
    """
    folder = Path(path)
    if not folder.is_dir():
        return _on_hub(path, revision)
    parts = []
    for file in sorted({file for pattern in DECISIVE for file in folder.glob(pattern)}):
        if file.name == ADAPTER:
            parts.append((file.name, _adapter_settings(file)))
            continue
        parts.append((file.name, file_digest(file)))
    if (folder / ADAPTER).is_file():
        base = adapter_base(folder)
        parts.append(("base", checkpoint_digest(base, base_revision(folder)) if base else ""))
    return lines_digest([json.dumps(parts)])


def _adapter_settings(file: Path) -> str:
    """What PEFT's file says but where the base lies; lists, which PEFT writes from sets, in an order of their own."""
    fields = json.loads(file.read_text())
    fields.pop("base_model_name_or_path", None)
    return settings_digest({k: sorted(v, key=str) if isinstance(v, list) else v for k, v in fields.items()})


def adapter_base(folder: Path) -> str | None:
    """The checkpoint that the adapter in a folder stands on.

    One that a run merged for it lies in the run's own folder, and is found there wherever that was moved to.
    """
    named = json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path")
    if isinstance(named, str) and Path(named).name == BASE:
        for place in (folder / BASE, folder.parent / BASE):
            if (place / MERGED).is_file():
                return str(place)
    return named


def base_revision(folder: Path) -> str | None:
    """The revision of the checkpoint that the adapter in a folder stands on, where that is on the Hub."""
    return json.loads((folder / ADAPTER).read_text()).get("revision")


def resolved_dtype(dtype: str, path: str) -> str:
    """A type of weights by name; for `auto` that of a checkpoint, or of its base where it is an adapter."""
    return checkpoint_dtype(path) if dtype == "auto" else dtype


def checkpoint_dtype(path: str, revision: str | None = None) -> str:
    """The type of a checkpoint's weights as its configuration says, float32 where it says nothing."""
    folder = Path(path)
    if not folder.is_dir():
        file = hub_file(path, "config.json", revision) or hub_file(path, ADAPTER, revision)
        if file is None:
            return "float32"
        folder = Path(file).parent
    if (folder / ADAPTER).is_file():
        base = adapter_base(folder)
        return checkpoint_dtype(base, base_revision(folder)) if base else "float32"
    if not (folder / "config.json").is_file():
        return "float32"
    fields = json.loads((folder / "config.json").read_text())
    return str(fields.get("dtype") or fields.get("torch_dtype") or "float32").removeprefix("torch.")


def hub_file(name: str, file: str, revision: str | None) -> str | None:
    """Where a file of a repository on the Hub lies in the cache; None where it is not there, or not to be reached."""
    # OSError: not there, or not to be reached; ValueError: not a name the Hub could have
    with suppress(OSError, ValueError):
        return cached_file(name, file, revision=revision)
    return None


def checkpoint_name(path: str) -> str:
    """What to call a checkpoint wherever it lies: its folder's name, or its name on the Hub."""
    return Path(path).resolve().name if Path(path).is_dir() else path


def _on_hub(name: str, revision: str | None) -> str:
    for file in ("config.json", ADAPTER):
        commit = extract_commit_hash(hub_file(name, file, revision), None)
        if commit is not None:
            return f"{name}@{commit}"
    return name if revision is None else f"{name}@{revision}"


def canonical(value: Any) -> Any:
    """Settings in which equal numbers are written alike: 1.0 as 1."""
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def settings_digest(settings: dict) -> str:
    """Digest of settings by name; equal numbers count as equal, whether written 1 or 1.0."""
    return lines_digest([json.dumps(canonical(settings), sort_keys=True, default=str)])


def lines_digest(lines: Iterable[str]) -> str:
    """Digest of lines of text in their order."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]
