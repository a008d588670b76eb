"""The gates of a plan: what is measured at each, how it came out, and which further portions that adds to the plan.

Knows held-out tokens and the plan; knows nothing of models or processes. All it decides follows from the plan and from
what was measured, which goes into checkpoints.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data import tokens_of
from ..runtime.files import write_json
from .gate import LEAST_DOCUMENTS, StageError
from .needles import Haystack, Probe, grid
from .plan import Plan
from .rows import row_of
from .stages import Stage
from .tokens import Tokens

FILE = "gates.json"  # in a checkpoint, and in the folder of the run

Rows = list[dict[str, np.ndarray]]


class Gates:
    """What stands between the stages of a plan.

    Args:
        heldout: the sources that documents and haystacks are of; nothing that is trained on.

    Raises:
        StageError: a gate without a shorter context before it, with too few held-out documents, or of a stage whose
            name another has. SourceError: one whose shortest rows have no room for a needle.
    """

    def __init__(self, plan: Plan, heldout: Sequence[Tokens], tokenizer: PreTrainedTokenizerBase):
        self.plan, self._heldout, self._pad = plan, list(heldout), tokens_of(tokenizer).pad
        self.results: list[dict[str, Any]] = []
        self._before: dict[str, list[float]] = {}
        self._hay: dict[int, Haystack] = {}
        names = [stage.name for stage in plan.stages if stage.gate]
        for number, stage in enumerate(plan.stages):
            if stage.gate is None or stage.portion:
                continue
            if names.count(stage.name) > 1:
                raise StageError(f"{stage.where}, key 'name': found {stage.name!r} twice, expected one of its own")
            if not heldout:
                raise StageError(f"{stage.where}, key 'gate': found no eval_datasets, expected held-out documents")
            self._hay[stage.number] = hay = Haystack(self._heldout, tokenizer, stage.gate.digits)
            hay.probe(stage.context // stage.gate.lengths, 0.5, "")
            short = self._short(number)
            if (found := len(self._documents(short))) < LEAST_DOCUMENTS:
                raise StageError(
                    f"{stage.where}, key 'gate': found {found} held-out documents of {short} tokens or more, expected "
                    f"at least {LEAST_DOCUMENTS}"
                )

    def _short(self, number: int) -> int:
        stage = self.plan.stages[number]
        earlier = [one.context for one in self.plan.stages if one.number < stage.number]
        if stage.gate.short is None and not earlier:
            raise StageError(f"{stage.where}, key 'gate': found no short, expected the context of the model before")
        return stage.gate.short or earlier[-1]

    def _documents(self, short: int) -> list[tuple[int, int]]:
        """Source and first token of every held-out document of so many tokens or more."""
        found = []
        for source, tokens in enumerate(self._heldout):
            sizes = tokens.sizes()
            starts = np.cumsum(sizes) - sizes
            found += [(source, int(start)) for start in starts[sizes >= short]]
        return found

    def begins(self, number: int) -> bool:
        """Whether a stage, by its place in the plan, has a gate before which nothing was measured yet."""
        stage = self.plan.stages[number]
        return stage.gate is not None and not stage.portion and str(stage.number) not in self._before

    def before(self, number: int, losses: list[float]) -> None:
        """Takes the losses of `documents` before the stage."""
        self._before[str(self.plan.stages[number].number)] = losses

    def stands_at(self, step: int) -> int | None:
        """The stage or portion that ended with the step before, if a gate stands there that was not judged yet."""
        if not step or step not in self.plan.time.firsts:
            return None
        number = self.plan.time.at(step - 1)
        judged = any(result["step"] == step for result in self.results)
        return None if self.plan.stages[number].gate is None or judged else number

    def documents(self, number: int) -> Rows:
        """Rows of the first tokens of held-out documents, the same before and behind the stage."""
        stage, short = self.plan.stages[number], self._short(number)
        found = self._documents(short)
        drawn = random.Random(f"{self.plan.seed}/{stage.number}").sample(found, min(stage.gate.documents, len(found)))
        return [row_of(self._heldout[source].read(start, short)[0], np.array([0]), short) for source, start in drawn]

    def probes(self, number: int) -> list[Probe]:
        """Haystacks with fresh keys, and in every cell of the grid one whose needle was taken out."""
        stage = self.plan.stages[number]
        gate, hay = stage.gate, self._hay[stage.number]
        found = []
        for length, depth in grid(gate.lengths, gate.depths, stage.context):
            key = f"{self.plan.seed}/{stage.number}/{stage.portion}/{length}/{depth}"
            found += [hay.probe(length, depth, f"{key}/{i}") for i in range(gate.per_cell)]
            found.append(hay.probe(length, depth, f"{key}/taken out", taken_out=True))
        return found

    def rows(self, probes: Sequence[Probe]) -> Rows:
        """Probes as rows whose answers alone are labelled."""
        found = []
        for probe in probes:
            row = row_of(np.array(probe.ids), np.array([0]), probe.length, self._pad)
            row["labels"][: -probe.answer] = -100
            found.append(row)
        return found

    def judge(self, step: int, number: int, now: list[float], probes: Sequence[Probe], hits: list[bool]) -> dict:
        """How a gate came out; one that stays shut takes the next portion into the plan, while there is one."""
        stage = self.plan.stages[number]
        short = stage.gate.recovered(self._before[str(stage.number)], now)
        needles = stage.gate.found(probes, hits)
        passed = short["passed"] and needles["passed"]
        self.results.append(
            {
                "stage": self.plan.stages[number - stage.portion].name,
                "number": stage.number,
                "portion": stage.portion,
                "step": step,
                "tokens": self.plan.time.tokens_before(step),
                "context": stage.context,
                "passed": passed,
                "short_context": {"tokens": self._short(number)} | short,
                "needles": needles,
            }
        )
        self._take(self.results[-1])
        return self.results[-1]

    def _take(self, result: dict) -> None:
        """The next portion, where a gate is shut and has one left."""
        places = [i for i, stage in enumerate(self.plan.stages) if stage.number == result["number"]]
        if not result["passed"] and result["portion"] + 1 < len(places):
            self.plan.take(places[result["portion"] + 1])

    @property
    def shut(self) -> str | None:
        """Why the run cannot go on, None where it can."""
        if not self.results or self.results[-1]["passed"]:
            return None
        result = self.results[-1]
        stage: Stage = next(one for one in self.plan.stages if one.number == result["number"])
        if result["portion"] < stage.gate.portions:
            return None
        short, needles = result["short_context"], result["needles"]
        why = [f"{needles['missed']} of {needles['probes']} needles were missed"] if needles["missed"] else []
        if guessed := needles["taken_out"]["hits"]:
            why.append(f"{guessed} of {needles['taken_out']['probes']} keys were answered that nothing said")
        if not short["passed"]:
            bound = "by any number of" if short["bound"] is None else f"{short['bound']:.4f}"
            why.append(
                f"the loss at {short['tokens']} tokens may lie {bound} nats above the one before, expected less than "
                f"{short['margin']}"
            )
        return (
            f"{stage.where}, {stage.name}: its gate is shut behind {result['tokens']:,} tokens and "
            f"{result['portion']} further portions: {'; '.join(why)}"
        )

    def summary(self) -> dict[str, dict]:
        """By stage, how its gate came out last."""
        return {result["stage"]: result for result in self.results}

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {"results": self.results, "before": self._before})

    def load(self, folder: Path) -> None:
        """Goes on from a checkpoint, where it holds anything of gates."""
        if (folder / FILE).is_file():
            found = json.loads((folder / FILE).read_text())
            self.results, self._before = found["results"], found["before"]
            for result in self.results:
                self._take(result)
