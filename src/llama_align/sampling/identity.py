"""Digests of what a stored result came from, so that it is never taken for the result of something else."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from ..data.records import Record

# what decides the tokens and scores of a checkpoint; logs, model cards and trainer states beside it do not
DECISIVE = ("config.json", "adapter_config.json", "tokenizer.json", "tokenizer.model", "*.safetensors")


def checkpoint_digest(path: str) -> str:
    """Digest of the content of a checkpoint directory, wherever and whenever written; a Hub name stays as it is."""
    folder = Path(path)
    if not folder.is_dir():
        return path
    parts = []
    for file in sorted({file for pattern in DECISIVE for file in folder.glob(pattern)}):
        with file.open("rb") as content:
            parts.append((file.name, hashlib.file_digest(content, "sha256").hexdigest()))
    return lines_digest([json.dumps(parts)])


def records_digest(records: Iterable[Record]) -> str:
    """Digest of records in their order."""
    return lines_digest(json.dumps(record.to_dict(), sort_keys=True) for record in records)


def settings_digest(settings: dict) -> str:
    """Digest of settings by name."""
    return lines_digest([json.dumps(settings, sort_keys=True, default=str)])


def lines_digest(lines: Iterable[str]) -> str:
    """Digest of lines of text in their order."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()[:16]
