"""Scores kept by (answer, reward model), so that no model ever scores an answer twice, in whatever run or round.

A model's folder is named by the digest of its checkpoint and the type of its weights. It holds JSON lines files of the
answers that were scored together, each written whole and named by what it answers: {"answer": digest of prompt and
answer ids, "score": float}, with "truncated": true where the answer did not fit the model's context.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

from ..chat import Answer, Message, settled
from ..data import RecordError, Sample, read_jsonl, write_jsonl
from ..data.records import is_number, show
from ..runtime.files import remove_stale_parts
from ..runtime.identity import checkpoint_digest, lines_digest, resolved_dtype
from ..runtime.processes import ALONE, Group
from ..runtime.progress import Task
from ..sampling.memory import release
from .models import RewardModel, combine, main_score

Asked = tuple[list[Message], Answer, bool]  # prompt, answer, whether it ended by itself


class ScoreCache:
    """The scores of one reward model.

    Args:
        folder: shared by all models; this one's scores go to a folder in it. checkpoint: where the model lies. dtype:
            of its weights.
    """

    def __init__(self, folder: str | Path, checkpoint: str, dtype: str = "float32"):
        name = f"{checkpoint_digest(checkpoint).replace('/', '--')}-{resolved_dtype(dtype, checkpoint)}"
        self.folder = Path(folder) / name

    def path(self, block: str) -> Path:
        """Where the scores of a block of answers are, or will be."""
        return self.folder / f"{block}.jsonl"

    def scores(self, block: str) -> list[tuple[float, bool]]:
        """The scores of a block that was written, in the order of its answers, and which of these were truncated."""
        return [(score, truncated) for _, score, truncated in _rows(self.path(block))]

    def known(self, without: set[str]) -> dict[str, float]:
        """All scores by answer, but those in the blocks named."""
        files = sorted(path for path in self.folder.glob("*.jsonl") if path.stem not in without)
        return {answer: score for path in files for answer, score, _ in _rows(path)}

    def fill(self, block: str, asked: Sequence[Asked], model: RewardModel, known: dict[str, float]) -> None:
        """Scores what is not known of a block and writes all of it.

        Raises:
            ValueError: the model gave a score that is not a finite number.
        """
        encoded = [model.encode(*dialog) for dialog in asked]
        answers = [answer_digest(ids) for ids, _ in encoded]
        new = {answer: ids for answer, (ids, _) in zip(answers, encoded, strict=True) if answer not in known}
        scored = dict(zip(new, model.scorer.score(list(new.values())), strict=True))
        for score in scored.values():
            if not math.isfinite(score):
                raise ValueError(f"reward model {self.folder.name}: found a score of {score}, expected finite numbers")
        scores = known | scored
        rows = ({"answer": answer, "score": scores[answer]} for answer in answers)
        cut = ({"truncated": True} if truncated else {} for _, truncated in encoded)
        write_jsonl(self.path(block), (row | extra for row, extra in zip(rows, cut, strict=True)))


def answer_digest(ids: Sequence[int]) -> str:
    """Digest of the ids of a prompt with its answer, 128 bits."""
    return hashlib.sha256(array("I", ids).tobytes()).hexdigest()[:32]


def _rows(path: Path) -> list[tuple[str, float, bool]]:
    rows = []
    for number, row in read_jsonl(path):
        for field, fits, wanted in (
            ("answer", isinstance(row.get("answer"), str), "a digest"),
            ("score", is_number(row.get("score")), "a finite number"),
        ):
            if not fits:
                expected = f"{wanted}; the file can be removed, its answers are then scored again"
                raise RecordError(f"{path}, line {number}", field, show(row.get(field)), expected)
        rows.append((row["answer"], row["score"], row.get("truncated", False)))
    return rows


class CachedRewards:
    """Reward models that score samples in one pass, each answer once.

    What is scored together follows from the samples and from what the cache held before, so that in a folder that no
    other run writes to neither a kill nor the number of processes changes a bit. Scores found in a shared folder may
    differ in rounding from those this run would have computed.

    Args:
        checkpoints: the models' paths by name. load: loads one; called for those that have something to score, which
            are given up afterwards. folder: of the cache. size: answers scored between two writes. dtype: of weights.
    """

    def __init__(
        self,
        checkpoints: dict[str, str],
        load: Callable[[str], RewardModel],
        threshold: float,
        folder: str | Path,
        size: int,
        group: Group = ALONE,
        dtype: str = "float32",
    ):
        self.checkpoints, self.load, self.threshold = checkpoints, load, threshold
        self.caches = {name: ScoreCache(folder, path, dtype) for name, path in checkpoints.items()}
        self.size, self.group = size, group
        self.truncated = dict.fromkeys(checkpoints, 0)  # of the samples scored last, by model

    @property
    def main(self) -> str:
        """The name of the score that decides."""
        return main_score(self.checkpoints)

    def __call__(self, samples: Sequence[Sample]) -> dict[str, list[float]]:
        """Scores by name, one per sample; whatever rewards the samples carry plays no part.

        Each process of the group scores its share of the missing blocks; all of them return all scores.
        """
        places: dict[str, int] = {}
        asked: list[Asked] = []
        order = []
        for sample in samples:
            answer = settled(sample.completion)
            key = json.dumps([sample.prompt, answer, sample.finished], sort_keys=True)
            if key not in places:
                places[key] = len(asked)
                asked.append((sample.prompt, answer, sample.finished))
            order.append(places[key])
        keys = list(places)
        blocks = {
            lines_digest(keys[first : first + self.size]): asked[first : first + self.size]
            for first in range(0, len(keys), self.size)
        }
        self._fill(blocks)
        found = {name: [row for block in blocks for row in cache.scores(block)] for name, cache in self.caches.items()}
        self.truncated = {name: sum(rows[place][1] for place in order) for name, rows in found.items()}
        scores = {name: [rows[place][0] for place in order] for name, rows in found.items()}
        return combine(scores, [sample.objective for sample in samples], self.threshold)

    def _fill(self, blocks: dict[str, list[Asked]]) -> None:
        missing = {
            block: [name for name, cache in self.caches.items() if not cache.path(block).exists()] for block in blocks
        }
        # blocks of these samples do not count as known: how many there are depends on when a run was killed
        names = {name for lacking in missing.values() for name in lacking}
        known = {name: self.caches[name].known(without=set(blocks)) for name in names}
        self.group.wait()  # everybody has looked before anybody writes
        mine = self.group.share([block for block, lacking in missing.items() if lacking])
        models: dict[str, RewardModel] = {}
        with Task(len(mine), "scored block", shown=bool(self.group.is_main and mine)) as task:
            for block in mine:
                for name in missing[block]:
                    if name not in models:
                        models[name] = self.load(self.checkpoints[name])
                    self.caches[name].fill(block, blocks[block], models[name], known[name])
                task.add()
        if models:
            models.clear()
            release()
        self.group.wait()
        if self.group.is_main:
            for cache in self.caches.values():
                remove_stale_parts(cache.folder)
