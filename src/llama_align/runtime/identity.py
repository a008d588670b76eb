"""Digests of what a stored result came from, so that it is never taken for the result of something else."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from transformers.utils.hub import cached_file, extract_commit_hash

ADAPTER = "adapter_config.json"
# what decides the tokens and scores of a checkpoint; logs, model cards and trainer states beside it do not
DECISIVE = ("config.json", ADAPTER, "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "*.safetensors")


def checkpoint_digest(path: str) -> str:
    """Digest of the content of a checkpoint directory, wherever and whenever written, and of an adapter's base.

    A name on the Hub is followed by its commit where transformers knows that, which it does offline, too, for what it
    has downloaded.
    """
    folder = Path(path)
    if not folder.is_dir():
        return _on_hub(path)
    parts = []
    for file in sorted({file for pattern in DECISIVE for file in folder.glob(pattern)}):
        with file.open("rb") as content:
            parts.append((file.name, hashlib.file_digest(content, "sha256").hexdigest()))
    if (folder / ADAPTER).is_file():
        base = json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path")
        parts.append(("base", checkpoint_digest(base) if base else ""))
    return lines_digest([json.dumps(parts)])


def _on_hub(name: str) -> str:
    for file in ("config.json", ADAPTER):
        # OSError: not there, or not to be reached; ValueError: not a name the Hub could have
        with suppress(OSError, ValueError):
            commit = extract_commit_hash(cached_file(name, file), None)
            if commit is not None:
                return f"{name}@{commit}"
    return name


def settings_digest(settings: dict) -> str:
    """Digest of settings by name."""
    return lines_digest([json.dumps(settings, sort_keys=True, default=str)])


def lines_digest(lines: Iterable[str]) -> str:
    """Digest of lines of text in their order."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]
