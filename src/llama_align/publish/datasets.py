"""Records published as data sets: JSON lines, a card with the YAML that the Hub and `datasets` read."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import DatasetCardData

from ..data import KINDS
from .checkpoint import data_card, shown
from .files import Item, check_item
from .hub import Target, address, commit, prepare
from .markdown import block, code, plain

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
TASKS = {"demonstration": "text-generation", "document": "text-generation", "prompt": "text-generation"}


def kind_of(path: Path) -> str:
    """The kind of records in a file, by its first row.

    Raises:
        ValueError: none of ours.
    """
    try:
        with path.open(encoding="utf-8") as file:
            row = json.loads(file.readline())
    except ValueError as error:  # no JSON, or no text at all
        raise ValueError(f"{path}, line 1: found no JSON ({error}), expected a record") from error
    names = set(row) if isinstance(row, dict) else set()
    for kind in ("preference", "sample", "document", "demonstration", "prompt"):
        fields = KINDS[kind].names()
        if names and names <= set(fields) and _fits(kind, row):
            return kind
    found = ", ".join(sorted(names))
    raise ValueError(f"{path}, line 1: found {found}, expected the fields of one of {', '.join(KINDS)}")


def _fits(kind: str, row: dict) -> bool:
    try:
        KINDS[kind].from_dict(row)
    except ValueError:
        return False
    return True


def front_matter(kind: str, files: dict[str, str], rows: int, licence: str | None) -> dict:
    """What stands above a card, as the Hub and `datasets` read it; `files` by the name of their part."""
    return DatasetCardData(
        license=licence,
        task_categories=[TASKS.get(kind, "other")],
        size_categories=[next((name for most, name in SIZES if rows < most), "1M<n<10M")],
        tags=["llama-align", kind],
        configs=[{"config_name": name, "data_files": file} for name, file in files.items()],
    ).to_dict()


def dataset_items(files: dict[str, Path], repo: str, licence: str | None, hide: str = "", made: str = "") -> list[Item]:
    """The files of a data set and its card.

    Args:
        files: JSON lines of one kind of records, by the name of their part, such as `round-1`. hide: see
            `checkpoint.items_of`. made: what made them, in words.

    Raises:
        ValueError: records of several kinds or of none of ours, or a token in them.
    """
    kinds = {kind_of(path) for path in files.values()}
    if len(kinds) != 1:
        raise ValueError(f"{repo}: found records of {len(kinds)} kinds ({', '.join(sorted(kinds))}), expected one")
    (kind,) = kinds
    items = [Item(f"data/{name}.jsonl", path) for name, path in files.items()]
    counts = {name: _rows(path) for name, path in files.items()}
    parts = {name: f"data/{name}.jsonl" for name in files}
    front = front_matter(kind, parts, sum(counts.values()), licence)
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    name = repo.split("/")[-1]
    lines = [f"# {plain(name)}", "", f"Records of the kind {code(kind)}{made and f', made by {plain(made)}'}.", ""]
    lines += ["| part | rows | |", "|---|---|---|"]
    lines += [f"| {code(part)} | {counts[part]} | {_words(kind, path)} |" for part, path in files.items()]
    first = next(iter(files))
    load = f'from datasets import load_dataset\n\nrows = load_dataset({json.dumps(repo)}, "{first}", split="train")'
    lines += ["", "Load it with:", "", *block(load, "python"), ""]
    if card := data_card(kind):
        body = card.read_text("utf-8").removeprefix("---\n")
        lines += [body.split("---\n", 1)[-1].strip().replace("# ", "## ", 1)]
    items.append(Item("README.md", shown(f"---\n{text}---\n\n" + "\n".join(lines) + "\n", hide).encode()))
    for item in items:
        check_item(item, item.source.parent if isinstance(item.source, Path) else Path())
    return items


def _rows(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _words(kind: str, path: Path) -> str:
    """What a part holds: grades of preferences, the share of samples that ended."""
    names = {"preference": "grade", "sample": "objective"}
    if kind not in names:
        return ""
    with path.open(encoding="utf-8") as file:
        counts = Counter(str(json.loads(line).get(names[kind])) for line in file)
    return ", ".join(f"{plain(name)} {count}" for name, count in counts.most_common())


def publish_dataset(files: dict[str, Path], target: Target, hide: str = "", made: str = "") -> str:
    """Publishes records as a data set and returns its address; see `dataset_items` for errors."""
    items = dataset_items(files, target.repo, target.licence, hide, made)
    repo = prepare(target, None, "dataset")
    if repo != target.repo:  # which its card names
        items = dataset_items(files, repo, target.licence, hide, made)
    commit(repo, items, f"{len(files)} parts, by llama_align", target.revision, "dataset")
    return address(repo, "dataset")


def parts_of(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by the names of their parts."""
    return {path.name.split(".")[0]: path for path in paths}
