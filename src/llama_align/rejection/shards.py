"""Work in shards that survive a kill: each done once and written whole."""

from collections.abc import Callable
from pathlib import Path

from ..data import Sample, read_records, write_jsonl
from ..runtime.files import remove_stale_parts
from ..runtime.identity import settings_digest
from ..runtime.processes import ALONE, Group


class Shards:
    """Ranges of prompts, each sampled once and written whole.

    A shard is sampled as one batch whoever samples it, so that its bytes depend neither on kills nor on the number of
    processes; on that of a process's threads they do, which orders sums.

    Args:
        output_dir: shards go to `shards/` in it. total: prompts. size: prompts per shard.
        identity: whatever the samples depend on; shards of anything else are never mixed in.
    """

    def __init__(self, output_dir: str, total: int, size: int, identity: dict):
        self.folder = Path(output_dir) / "shards" / settings_digest(identity)
        self.ranges = [(first, min(first + size, total)) for first in range(0, total, size)]

    def make(self, sample: Callable[[int, int], list[Sample]], part: int, parts: int, group: Group = ALONE) -> None:
        """Samples one of `parts` parts of all shards, but for those that are there; others may be made meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for first, last in group.share(self.ranges[part::parts]):
            if not self._path(first, last).exists():
                write_jsonl(self._path(first, last), sample(first, last))

    def run(self, sample: Callable[[int, int], list[Sample]], group: Group = ALONE) -> list[Sample]:
        """All samples in order of the prompts; a shard that is already on disk is read, the others are sampled.

        Each process of the group samples its share of the missing shards; all of them return all samples.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [part for part in self.ranges if not self._path(*part).exists()]
        group.wait()  # everybody has looked before anybody writes
        for first, last in group.share(missing):
            write_jsonl(self._path(first, last), sample(first, last))
        group.wait()
        if group.is_main:
            remove_stale_parts(self.folder)
        return [record for part in self.ranges for record in read_records(self._path(*part), Sample)]

    def _path(self, first: int, last: int) -> Path:
        return self.folder / f"{first:08d}-{last:08d}.jsonl"
