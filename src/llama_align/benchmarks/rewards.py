"""Reward models on pairs and on the best of several answers, by subset, beside always preferring the longer answer.

RewardBench 2 (Malik et al. 2025, arXiv 2506.01937): a row has `prompt`, `chosen` and `rejected` (lists of texts),
`subset` and, in its subset Ties, an `id` of ref:<n> or tied:<n>.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ..chat import as_text
from ..data import load_records
from ..data.opening import open_rows
from ..data.records import RecordError
from ..metrics.functional import reward_accuracy
from ..rewards.models import RewardModel
from .scores import score

TIES = "Ties"
WEIGHTS = (0.3, 0.3, 0.2, 0.2, 0.01)  # of the accuracies of tied and ref, the margins preferred, hard, and by how much


def on_pairs(model: RewardModel, sources: Sequence[dict]) -> dict:
    """Accuracy on preferences as `reward_accuracy` has it: all, by grade and by objective, with `longer_wins`."""
    records, _ = load_records(list(sources), "preference")
    sides = {name: [getattr(record, name) for record in records] for name in ("chosen", "rejected")}
    prompts = [record.prompt for record in records]
    finished = {name: [getattr(record, f"{name}_finished") is not False for record in records] for name in sides}
    scores = {name: model.score(prompts, sides[name], finished[name]) for name in sides}
    lengths = {f"{name}_lengths": [len(as_text(answer)) for answer in answers] for name, answers in sides.items()}
    grades, objectives = ([getattr(record, name) for record in records] for name in ("grade", "objective"))
    return reward_accuracy(scores["chosen"], scores["rejected"], grades, objectives=objectives, **lengths)


def on_several(model: RewardModel, file: str) -> dict:
    """How often the right one of several answers has the highest score, by subset; Ties has a score of its own.

    An answer that shares the highest score with others counts as its share. `accuracy` is the mean over subsets, as the
    leaderboard's; `longest` is what always taking the longest answer reaches.

    Raises:
        RecordError: a row of another form.
    """
    rows = [_checked(where, row) for where, row in open_rows(file)]
    answers = [[*row["chosen"], *row["rejected"]] for row in rows]
    prompts = [
        [{"role": "user", "content": row["prompt"]}] * len(some) for row, some in zip(rows, answers, strict=True)
    ]
    flat = model.score(
        [[message] for prompt in prompts for message in prompt], [text for some in answers for text in some]
    )
    ends = np.cumsum([len(some) for some in answers])[:-1]
    scores = np.split(np.asarray(flat), ends)
    longest = [np.array([len(text) for text in some], float) for some in answers]
    ways = {"value": scores, "longest": longest}
    found: dict[str, dict] = defaultdict(dict)
    for subset in dict.fromkeys(row["subset"] for row in rows):
        members = [i for i, row in enumerate(rows) if row["subset"] == subset]
        for name, way in ways.items():
            if subset == TIES:
                found[subset][name] = ties([rows[i] for i in members], [way[i] for i in members])
                continue
            of_subset = score([best(way[i], len(rows[i]["chosen"])) for i in members])
            found[subset] |= of_subset if name == "value" else {name: of_subset["value"]}
        found[subset]["n"] = len(members)
    means = {name: float(np.mean([one[name] for one in found.values()])) for name in ways}
    return {"accuracy": means["value"], "longest": means["longest"], "subsets": dict(found)}


def _checked(where: str, row: dict | RecordError) -> dict:
    if isinstance(row, RecordError):
        raise row
    for name, kind in {"prompt": str, "chosen": list, "rejected": list, "subset": str}.items():
        if not isinstance(row.get(name), kind) or not row[name]:
            raise RecordError(where, name, repr(row.get(name))[:60], "RewardBench 2's form, see docs/benchmarks.md")
    return row


def best(scores: np.ndarray, right: int) -> float:
    """The share of the right answers, which stand first, among those that have the highest score."""
    top = scores == scores.max()
    return float(top[:right].sum() / top.sum())


def ties(rows: Sequence[Mapping], scores: Sequence[np.ndarray]) -> float:
    """RewardBench 2's score of Ties: all right answers above all wrong ones, and closer to each other than to these.

    Each prompt comes twice: with one right answer (`ref`) and with several (`tied`).
    """
    kinds: dict[str, dict[str, tuple[float, float]]] = {"ref": {}, "tied": {}}
    for row, found in zip(rows, scores, strict=True):
        kind, _, number = row["id"].partition(":")
        right, wrong = found[: len(row["chosen"])], found[len(row["chosen"]) :]
        kinds[kind][number] = (right.min() - wrong.max(), right.max() - right.min())
    accuracy = {kind: np.mean([gap > 0 for gap, _ in one.values()]) if one else 0.0 for kind, one in kinds.items()}
    both = [number for number in kinds["tied"] if number in kinds["ref"]]
    parts = [accuracy["tied"], accuracy["ref"], 0.0, 0.0, 0.0]
    if both:
        gaps, spread = (np.array([kinds["tied"][number][i] for number in both]) for i in (0, 1))
        least = np.minimum(gaps, [kinds["ref"][number][0] for number in both])
        # as the reference: no spread gives a margin of 1 or -1, and none at all 0
        with np.errstate(divide="ignore", invalid="ignore"):
            margins = np.nan_to_num(np.tanh(least / spread - 1), nan=0.0)
        parts[2:] = [(gaps > spread).mean(), (least > spread).mean(), margins.mean()]
    return float(np.dot(WEIGHTS, parts))
