"""What a checkpoint computes for the harness, shared by the processes of a launch.

The main process asks; the others wait for what it asks, compute their part of it, and end with it.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..recipe.engines import EngineSettings
from ..runtime.processes import Group
from ..sampling.continuations import likelihoods
from ..sampling.engine import Likelihood, SamplingParams
from ..sampling.make import make_engine
from ..sampling.stopping import texts_until
from ..sampling.vllm_engine import VLLMEngine

BLOCK = 64  # sequences that neighbour each other and are computed by one process: they share beginnings

Row = tuple[Sequence[int], int]
Asked = tuple[Sequence[int], Sequence[str], int]


class Computing:
    """Likelihoods and texts of one checkpoint, on all processes of a group."""

    def __init__(self, path: str, tokenizer: PreTrainedTokenizerBase, settings: EngineSettings, group: Group):
        self.tokenizer, self.group = tokenizer, group
        self.model = settings.model(path, tokenizer)
        self.engine = make_engine(settings.engine, self.model, **settings.sampler_options(path))

    def likelihoods(self, rows: Sequence[Row]) -> list[Likelihood]:
        """Of every (ids, how many are given), in order."""
        order = sorted(range(len(rows)), key=lambda i: rows[i][0])
        blocks = [[rows[i] for i in order[at : at + BLOCK]] for at in range(0, len(order), BLOCK)]
        found = [one for block in self._all("_likelihoods", blocks) for one in block]
        return [one for _, one in sorted(zip(order, found, strict=True))]

    def texts(self, rows: Sequence[Asked], params: SamplingParams, stop_ids: Sequence[int]) -> list[str]:
        """A text for every (ids, stop strings, key of the random numbers), in order."""
        return self._all("_texts", rows, params, stop_ids)

    def serve(self) -> None:
        """Computes, on every other process, what the main one asks, until that is done."""
        while (heard := self.group.heard()) is not None:
            self._part(*heard)

    def done(self) -> None:
        """Lets the other processes go."""
        self.group.heard()

    def _all(self, name: str, work: Sequence, *options) -> list:
        return self._part(*self.group.heard((name, work, options)))

    def _part(self, name: str, work: Sequence, options: tuple) -> list:
        return self.group.joined(getattr(self, name)(self.group.share(work), *options))

    def _likelihoods(self, blocks: Sequence[list[Row]]) -> list[list[Likelihood]]:
        rows = [row for block in blocks for row in block]
        ids, given = [ids for ids, _ in rows], [n for _, n in rows]
        if isinstance(self.engine, VLLMEngine):
            found = iter(self.engine.likelihoods(ids, given))
        else:
            found = iter(likelihoods(self.model, ids, given))
        return [[next(found) for _ in block] for block in blocks]

    def _texts(self, rows: Sequence[Asked], params: SamplingParams, stop_ids: Sequence[int]) -> list[str]:
        ids, stops, keys = zip(*rows, strict=True) if rows else ((), (), ())
        return texts_until(self.engine, self.tokenizer, ids, stops, params, set(stop_ids), keys)
