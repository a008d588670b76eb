"""Sampling in shards that survive a kill, and the choice of the best answers from all of them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data import Sample, read_records, write_jsonl


class Shards:
    """Ranges of prompts, each sampled once and written whole.

    Args:
        output_dir: shards go to `shards/` in it. total: prompts. size: prompts per shard.
        identity: the settings of the run; shards of other settings are never mixed in.
    """

    def __init__(self, output_dir: str, total: int, size: int, identity: dict):
        settings = {k: v for k, v in identity.items() if k != "output_dir"}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        self.folder = Path(output_dir) / "shards" / digest
        self.ranges = [(first, min(first + size, total)) for first in range(0, total, size)]

    def run(self, sample: Callable[[int, int], list[Sample]]) -> list[Sample]:
        """All samples in order of the prompts; a shard that is already on disk is read, the others are sampled."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = []
        for first, last in self.ranges:
            path = self.folder / f"{first:08d}-{last:08d}.jsonl"
            if not path.exists():
                write_jsonl(path, (s.to_dict() for s in sample(first, last)))
            done.extend(read_records(path, "sample"))
        return done


def best_samples(samples: Sequence[Sample], score: str, keep: float = 1.0) -> tuple[list[Sample], dict[str, int]]:
    """The best finished answer to each prompt by one reward, and what was left out.

    An answer that was cut or is empty never wins; of equal scores the first wins, so copies change nothing.
    Of all winners the share `keep` with the highest scores stays, in order of the prompts.
    """
    best: dict[str, Sample] = {}
    cut = empty = 0
    for sample in samples:
        if not sample.completion.strip():
            empty += 1
        elif not sample.finished:
            cut += 1
        else:
            key = json.dumps(sample.prompt, sort_keys=True)
            if key not in best or sample.rewards[score] > best[key].rewards[score]:
                best[key] = sample
    winners = list(best.values())
    threshold = sorted((s.rewards[score] for s in winners), reverse=True)[: max(1, round(keep * len(winners)))]
    kept = [s for s in winners if threshold and s.rewards[score] >= threshold[-1]]
    prompts = len({json.dumps(s.prompt, sort_keys=True) for s in samples})
    return kept, {"prompts": prompts, "samples": len(samples), "cut": cut, "empty": empty, "kept": len(kept)}
