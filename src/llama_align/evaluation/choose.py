"""Which of several checkpoints is kept: the best on prompts that no training and no reported table reads."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.jsonl import read_jsonl
from ..metrics import functional as metrics
from ..models.tensor_files import BESIDE
from ..publish.made import MADE
from ..recipe import RecipeError, check_checkpoint
from ..runtime.files import write_json
from ..runtime.identity import ADAPTER, BASE, MERGED, adapter_base
from ..sandbox.judge import is_unsafe
from .measure import Evaluation

WEIGHTS = (".safetensors", ".safetensors.index.json")
SETTINGS = ("config.json", ADAPTER)


@dataclass(frozen=True)
class Choice:
    """The chosen name, what decided, and every candidate's score with its gain on the one kept until then."""

    chosen: str
    by: str
    candidates: list[dict]


def choose(evaluation: Evaluation, names: Sequence[str], sure: bool = False) -> Choice:
    """The best of measured candidates: each is kept in place of the one before where it gains; of equals the earlier.

    By the exact judge a score is the share of safe instructions answered as asked and unsafe ones refused, a gain the
    paired difference. Without it a score is the win rate against the first candidate under the reward models, a gain
    the win rate against the kept one, less one half.

    Args:
        sure: only where the whole 95% interval of the gain lies above 0.
    """
    read, score, gain = (outcomes, _share, _more) if evaluation.exact else (rewards_of, _win_rate, _wins)
    found = {name: read(evaluation, name) for name in names}
    first = kept = names[0]
    candidates = []
    for name in names:
        row = {"name": name} | score(found[name], found[first])
        if name != first:
            row["gain"] = {"on": kept} | gain(found[name], found[kept])
            if row["gain"]["low" if sure else "difference"] > 0:
                kept = name
        candidates.append(row)
    return Choice(kept, "exact" if evaluation.exact else "win_rate", candidates)


def _share(right: list[int], _: list[int]) -> dict:
    share = metrics.exact_score(right)
    return {"score": share["mean"], "low": share["low"], "high": share["high"]}


def _more(right: list[int], kept: list[int]) -> dict:
    more = metrics.paired_difference(kept, right)
    return {key: more[key] for key in ("difference", "low", "high")}


def _win_rate(rewards: list[float], first: list[float]) -> dict:
    won = metrics.win_rate(rewards, first)
    return {"score": won["rate"], "low": won["low"], "high": won["high"]}


def _wins(rewards: list[float], kept: list[float]) -> dict:
    won = metrics.win_rate(rewards, kept)
    return {"difference": won["rate"] - 0.5, "low": won["low"] - 0.5, "high": won["high"] - 0.5}


def outcomes(evaluation: Evaluation, name: str) -> list[int]:
    """By the exact judge 1 for every safe instruction answered as asked and every unsafe one refused, else 0."""
    rows = [row for _, row in read_jsonl(Path(evaluation.output_dir) / f"samples_{name}.jsonl")]
    return [int(not row["violation"] if is_unsafe(row["task"]) else row["helpful"]) for row in rows]


def rewards_of(evaluation: Evaluation, name: str) -> list[float]:
    """What the reward models give a measured candidate's answers."""
    measured = json.loads((Path(evaluation.output_dir) / f"{name}.json").read_text())
    return measured["rewards"][evaluation.rewards.main]


def check_candidates(models: Mapping[str, str], output_dir: str) -> None:
    """Raises RecipeError for a candidate that is no folder with a checkpoint, or the one that it would go to."""
    for name, path in models.items():
        if os.path.realpath(path) == os.path.realpath(output_dir):
            raise RecipeError(f"output_dir: found {output_dir!r}, the folder of {name}, expected one of its own")
        if not Path(path).is_dir():
            raise RecipeError(f"models, {name}: found no folder {path!r}, expected that of a checkpoint")
        check_checkpoint(path, "causal")


def take_over(source: str | Path, output_dir: str | Path) -> list[str]:
    """Puts a checkpoint's weights, configuration, tokenizer and code into a folder, and with them the base that a run
    merged for its adapter.

    Files of a checkpoint that stood there are removed first. Logs, metrics and what else lies beside stay behind.
    Weights are hard links where that is possible: safetensors writes beside and renames, so that none is written
    through. Libraries write configurations and tokenizers in place, so these are copied.
    """
    source, output = Path(source), Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    for file in output.iterdir():
        if file.is_file() and belongs(file.name):
            file.unlink()
    names = sorted(file.name for file in source.iterdir() if file.is_file() and belongs(file.name))
    for name in names:
        partial = output / f".{name}.{os.getpid()}.part"
        if not (name.endswith(".safetensors") and _linked(source / name, partial)):
            shutil.copyfile(source / name, partial)
        os.replace(partial, output / name)
    _take_base(source, output)
    return names


def _take_base(source: Path, output: Path) -> None:
    """The base in a run's own folder, without which its adapter is nothing; one of another adapter goes."""
    if (output / BASE / MERGED).is_file():
        shutil.rmtree(output / BASE)
    base = adapter_base(source) if (source / ADAPTER).is_file() else None
    if base is None or not (Path(base) / MERGED).is_file():
        return
    take_over(base, output / BASE)
    shutil.copyfile(Path(base) / MERGED, output / BASE / MERGED)
    settings = json.loads((output / ADAPTER).read_text())
    write_json(output / ADAPTER, settings | {"base_model_name_or_path": str(output / BASE)})


def _linked(source: Path, link: Path) -> bool:
    try:
        os.link(source, link)
    except OSError:  # another file system, or one without links
        return False
    return True


def belongs(name: str) -> bool:
    """Whether a file of this name is part of a checkpoint."""
    return name in (*SETTINGS, *BESIDE, MADE) or name.endswith((*WEIGHTS, ".py"))
