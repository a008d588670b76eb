"""K answers per prompt from checkpoints at temperatures, as samples without rewards, in shards that survive a kill."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..data import Prompt, Sample
from ..data.records import records_digest
from ..runtime.identity import checkpoint_digest, checkpoint_name, resolved_dtype
from ..runtime.processes import ALONE, Group
from ..sampling.dialogs import DialogSampler
from ..sampling.engine import SamplingParams
from .shards import Shards

# seeds of sources stand far apart, so that those of another run with the next seed are others
SEED_STRIDE = 1_000_003


@dataclass(frozen=True)
class Source:
    """Where answers come from. Two sources draw from random streams of their own."""

    checkpoint: str
    temperature: float
    seed: int


def sources(pairs: Iterable[tuple[str, float]], seed: int) -> list[Source]:
    """One source per checkpoint and temperature; the first has the run's own seed."""
    return [Source(path, float(heat), seed + i * SEED_STRIDE) for i, (path, heat) in enumerate(pairs)]


@dataclass
class Draws:
    """How answers are drawn.

    Args:
        output_dir: shards go to `shards/` in it. params: all settings but temperature and seed, which a source has.
        size: prompts per shard. engine: what answers depend on in the engine. load: makes the sampler of a checkpoint;
        called only if something is to be drawn. group: the processes that share the work. part: which of how many
        parts of the shards are drawn, and nothing returned; None: all.
    """

    output_dir: str
    params: SamplingParams
    size: int
    round: int
    engine: dict[str, Any]
    load: Callable[[str], DialogSampler]
    group: Group = ALONE
    part: tuple[int, int] | None = None

    def __call__(self, source: Source, prompts: Sequence[Prompt]) -> list[Sample]:
        """`params.n` samples per prompt, those of a prompt together, in order."""
        params = replace(self.params, temperature=source.temperature, seed=source.seed)
        name = checkpoint_name(source.checkpoint)
        identity = {
            "checkpoint": checkpoint_digest(source.checkpoint),  # not its path: a run that was moved goes on
            "params": asdict(params),
            "prompts": records_digest(prompts),
            "size": self.size,
            "round": self.round,
            "engine": self.engine | {"dtype": resolved_dtype(self.engine["dtype"], source.checkpoint)},
        }

        def sample_shard(first: int, last: int) -> list[Sample]:
            part = prompts[first:last]
            drafts = self.load(source.checkpoint)(
                [p.messages for p in part], params, keys=range(first, last), progress=self.group.is_main
            )
            return [
                Sample(
                    prompt=prompt.messages,
                    completion=draft.answer,
                    finished=draft.finished,
                    checkpoint=name,
                    temperature=source.temperature,
                    seed=source.seed,
                    rewards={},
                    objective=prompt.objective,
                    round=self.round,
                    task=prompt.task,
                )
                for prompt, group in zip(part, drafts, strict=True)
                for draft in group
            ]

        shards = Shards(self.output_dir, len(prompts), self.size, identity)
        if self.part:
            shards.make(sample_shard, *self.part, self.group)
            return []
        drawn = shards.run(sample_shard, self.group)
        return [replace(sample, checkpoint=name) for sample in drawn]  # the same weights may have had another name
