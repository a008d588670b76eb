"""Which files of a checkpoint are published: those listed here, and no other, whatever else lies in its folder."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, get_token

from ..models.forms import MODEL_TYPES
from ..models.portable import AUTO_MAP, own_sources
from ..models.tensor_files import BESIDE, INDEX, LICENCES, SINGLE, read_index, read_object
from ..runtime.identity import ADAPTER, BASE, adapter_base
from ..runtime.manifest import file_digest
from .made import MADE

ADAPTER_WEIGHTS = "adapter_model.safetensors"
RESULTS = ("metrics.json", "log.jsonl", "vocabulary.json", MADE)
EVALUATIONS = ".eval_results"
SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")


@dataclass(frozen=True)
class Item:
    """A file to publish: its path in the repository, and the file here or its bytes."""

    path: str
    source: Path | bytes

    @cached_property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.source).hexdigest() if isinstance(self.source, bytes) else file_digest(self.source)

    @property
    def weights(self) -> bool:
        return self.path.endswith(".safetensors")

    @property
    def content(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()

    def lines(self) -> Iterator[bytes]:
        """Of a file no more than one at a time."""
        if isinstance(self.source, bytes):
            yield from self.source.splitlines()
            return
        with self.source.open("rb") as file:
            yield from file


def checkpoint_items(folder: Path, base: str | None = None, code: bool = True) -> list[Item]:
    """The files of a checkpoint but its card, in one order.

    Args:
        folder: with a configuration and safetensors weights, or an adapter. base: of an adapter, its name on the Hub.
        code: whether LlamaHerd's code goes along, by which `trust_remote_code` loads it.

    Raises:
        ValueError: no checkpoint, shards that are missing, an adapter whose base only this machine has, or a result
            that the Hub would not read.
    """
    names = [name for name in (*BESIDE, *RESULTS) if (folder / name).is_file()]
    names += [file.relative_to(folder).as_posix() for file in sorted(folder.glob("additional_chat_templates/*.jinja"))]
    names += [file.name for rule in (*LICENCES, "[!.]*.svg") for file in sorted(folder.glob(rule)) if file.is_file()]
    items = {name: Item(name, folder / name) for name in dict.fromkeys(names)}
    items |= {item.path: item for item in _evaluations(folder)}
    if (folder / ADAPTER).is_file():
        items[ADAPTER] = Item(ADAPTER, _adapter_settings(folder, base))
        items[ADAPTER_WEIGHTS] = Item(ADAPTER_WEIGHTS, _there(folder / ADAPTER_WEIGHTS))
    else:
        config = read_object(folder / "config.json")
        items |= {name: Item(name, _there(folder / name)) for name in _weights(folder)}
        if code and is_herd(folder):
            items |= {name: Item(name, text.encode()) for name, text in own_sources().items()}
            config["auto_map"] = AUTO_MAP
        items["config.json"] = Item("config.json", _dumped(config))
    found = sorted(items.values(), key=lambda item: item.path)
    for item in found:
        check_item(item, folder)
    return found


def is_herd(folder: Path) -> bool:
    """Whether a folder holds a whole LlamaHerd."""
    return (folder / "config.json").is_file() and read_object(folder / "config.json").get("model_type") == MODEL_TYPES[
        "herd"
    ]


def is_checkpoint(folder: Path) -> bool:
    """Whether there are weights in a folder and what describes them."""
    whole = (folder / "config.json").is_file() and any((folder / name).is_file() for name in (SINGLE, INDEX))
    return whole or (folder / ADAPTER_WEIGHTS).is_file()


def ours(path: str) -> bool:
    """Whether a file in a model's repository is of the kind that is published here; others are somebody else's.

    So are licences: one that was put there by hand is not taken away.
    """
    names = (*BESIDE, *RESULTS, "config.json", "README.md", ADAPTER, ADAPTER_WEIGHTS, INDEX, *own_sources())
    rules = ("model*.safetensors", "*.svg", "additional_chat_templates/*", f"{EVALUATIONS}/*", "data_cards/*")
    return path in names or any(fnmatch(path, rule) for rule in rules)


def _weights(folder: Path) -> list[str]:
    """Of one file and an index that is stale beside it, the file: transformers reads it first."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [SINGLE]
    files = sorted(set(read_index(folder)["weight_map"].values()))
    if other := [name for name in files if name.startswith(".") or not name.endswith(".safetensors")]:
        raise ValueError(f"{folder / INDEX}: found {other[0]} among its files, expected weights in safetensors")
    return [INDEX, *files]


def _adapter_settings(folder: Path, base: str | None) -> bytes:
    settings, named = read_object(folder / ADAPTER), base or adapter_base(folder)
    if named is None or ((folder / BASE).is_dir() and not base) or Path(named).is_dir():
        raise ValueError(
            f"{folder / ADAPTER}, field base_model_name_or_path: found {named}, which only this machine has; publish "
            "the base and name it with --base user/name, or merge the adapter (llama-align convert)"
        )
    return _dumped(settings | {"base_model_name_or_path": named})


def _evaluations(folder: Path) -> list[Item]:
    """Results on benchmarks, as the Hub reads them where their data sets are registered there."""
    found = []
    for path in sorted((folder / EVALUATIONS).glob("*.yaml")):
        try:
            rows = yaml.safe_load(path.read_text("utf-8"))
            entries = [
                EvalResultEntry(
                    dataset_id=row["dataset"]["id"],
                    task_id=row["dataset"]["task_id"],
                    dataset_revision=row["dataset"].get("revision"),
                    value=row["value"],
                    date=None if row.get("date") is None else str(row["date"]),
                    source_url=(row.get("source") or {}).get("url"),
                    source_name=(row.get("source") or {}).get("name"),
                    notes=row.get("notes"),
                )
                for row in rows
            ]
        except (ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            raise ValueError(f"{path}: found {error!r}, expected a list of dataset (id, task_id) and value") from error
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        found.append(Item(f"{EVALUATIONS}/{path.name}", text.encode()))
    return found


def check_item(item: Item, folder: Path) -> None:
    """Raises ValueError for a link that leads out of its folder or to a hidden file, and for a token in a text."""
    if isinstance(item.source, Path) and item.source.is_symlink():
        target = item.source.resolve()
        cached = "blobs" in target.parts  # the Hub's cache
        if not (cached or target.is_relative_to(folder.resolve())) or target.name.startswith("."):
            raise ValueError(f"{item.source}: found a link to {target}, expected a file; nothing else is published")
    if item.weights:
        return
    secret = (get_token() or "").encode()
    for number, line in enumerate(item.lines(), 1):
        if SECRET.search(line) or (len(secret) > 8 and secret in line):
            raise ValueError(f"{item.path}, line {number}: found a token of the Hub, expected none")


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: found no such file, expected weights in safetensors")
    return path


def _dumped(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode()
