"""Sampling in shards that survive a kill, and the choice of the best answers from all of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data import RecordError, Sample, read_records, write_jsonl
from .identity import settings_digest
from .selection import top_share


class Shards:
    """Ranges of prompts, each sampled once and written whole.

    Args:
        output_dir: shards go to `shards/` in it. total: prompts. size: prompts per shard.
        identity: whatever the samples depend on; shards of anything else are never mixed in.
    """

    def __init__(self, output_dir: str, total: int, size: int, identity: dict):
        self.folder = Path(output_dir) / "shards" / settings_digest(identity)
        self.ranges = [(first, min(first + size, total)) for first in range(0, total, size)]

    def run(self, sample: Callable[[int, int], list[Sample]]) -> list[Sample]:
        """All samples in order of the prompts; a shard that is already on disk is read, the others are sampled."""
        self.folder.mkdir(parents=True, exist_ok=True)
        done = []
        for first, last in self.ranges:
            path = self.folder / f"{first:08d}-{last:08d}.jsonl"
            if not path.exists():
                write_jsonl(path, (s.to_dict() for s in sample(first, last)))
            done.extend(read_records(path, Sample))
        return done


def best_samples(samples: Sequence[Sample], score: str, keep: float = 1.0) -> tuple[list[Sample], dict[str, int]]:
    """The best finished answer to each prompt by one reward, and what was left out.

    An answer that was cut or is empty never wins; of equal scores the first wins, so copies change nothing.
    Of all winners the share `keep` (above 0, at most 1) with the highest scores stays, in order of the prompts.

    Raises:
        RecordError: a sample without that reward. ValueError: `keep` is out of range.
    """
    best: dict[str, Sample] = {}
    cut = empty = 0
    for number, sample in enumerate(samples, start=1):
        if score not in sample.rewards:
            found = ", ".join(sample.rewards) or "no rewards"
            raise RecordError(f"sample {number} of checkpoint {sample.checkpoint}", "rewards", found, f"{score!r} too")
        if not sample.completion.strip():
            empty += 1
        elif not sample.finished:
            cut += 1
        else:
            key = json.dumps(sample.prompt, sort_keys=True)
            if key not in best or sample.rewards[score] > best[key].rewards[score]:
                best[key] = sample
    winners = list(best.values())
    highest = top_share([s.rewards[score] for s in winners], keep) if winners else []
    kept = [winners[i] for i in sorted(highest)]
    prompts = len({json.dumps(s.prompt, sort_keys=True) for s in samples})
    return kept, {"prompts": prompts, "samples": len(samples), "cut": cut, "empty": empty, "kept": len(kept)}
