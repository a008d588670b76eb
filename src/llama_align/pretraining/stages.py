"""The stages of a run as a YAML lists them, and the learning rate they give. Knows numbers; nothing of files or models.

Sizes are tokens: of a stage, of a batch, of a row.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from itertools import accumulate
from typing import Any

import torch
from transformers import get_scheduler

from ..data.records import is_number, show
from .gate import Gate, StageError
from .mixes import MIXES

# what get_scheduler hands on to schedules that take hardly anything, and which arguments of others count steps
TAKEN = {"constant": (), "constant_with_warmup": ("warmup",)}
PARTS = ("num_stable_steps", "num_decay_steps")  # of a schedule, behind its warm-up
IN_STEPS = (*PARTS, "timescale")


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    tokens: trained on in it, at least; steps are whole, so that it ends with the batch that reaches them.
    context: tokens of a row; batch: of a step, over all processes, a whole number of rows.
    mixture: name of a source -> share of the tokens, or the name of a published mixture (default: weights).
    rope_theta, rope_scaling: rotary base and scaling in it (default: those of the stage before).
    window: a token looks no further back than the start of its window of so many tokens of the row (SkyLadder, 2025).
    schedule: {type, warmup, ...} of the learning rate over this stage alone, from where it stands, with the names and
        arguments of transformers' schedules, all lengths in tokens. Stages without follow the run's schedule together.
    learning_rate: the peak of its own schedule, instead of where the rate stands; whatever the batch.
    gate: what the model must show behind it, see `Gate`.
    number, portion: the stage's place in the list, and which further portion behind its gate it is (0: itself).
    """

    tokens: int
    context: int
    batch: int
    name: str = ""
    mixture: dict[str, float] | str | None = None
    rope_theta: float | None = None
    rope_scaling: dict | None = None
    window: int | None = None
    schedule: dict | None = None
    learning_rate: float | None = None
    gate: Gate | None = None
    number: int = field(default=0, metadata={"ours": True})
    portion: int = field(default=0, metadata={"ours": True})

    @classmethod
    def parse(cls, value: dict, number: int, context: int | None) -> "Stage":
        """Stage `number` of the list; `context` where it names none.

        Raises:
            StageError: an unknown key, or a value that is none of what is expected.
        """
        known = {one.name: one for one in fields(cls) if not one.metadata.get("ours")}
        where = f"stages[{number}]"
        if not isinstance(value, dict):
            raise StageError(f"{where}: found {show(value)}, expected a mapping with tokens, context and batch")
        for key in value:
            if key not in known:
                raise StageError(f"{where}: unknown key {key!r}, known: {', '.join(known)}")
        value = {"name": f"stage {number + 1}", **({} if context is None else {"context": context}), **value}
        for key, one in known.items():
            if key not in value and one.default is MISSING:
                raise StageError(f"{where}, key {key!r}: found none, expected a number of tokens")
        if value.get("gate") is not None:
            value["gate"] = Gate.parse(value["gate"], f"{where}, key 'gate'")
        stage = cls(**value, number=number)
        stage._check(where)
        return stage

    def _check(self, where: str) -> None:
        def need(key: str, fits: Any, expected: str) -> None:
            if not fits:
                raise StageError(f"{where}, key {key!r}: found {show(getattr(self, key))}, expected {expected}")

        for key in ("tokens", "context", "batch"):
            need(key, type(getattr(self, key)) is int and getattr(self, key) > 0, "a whole number of tokens above 0")
        need("batch", self.batch % self.context == 0, f"a whole number of rows of {self.context} tokens")
        need("name", isinstance(self.name, str) and self.name, "text")
        fits = self.window is None or (type(self.window) is int and 0 < self.window <= self.context)
        need("window", fits, f"a whole number of at most {self.context}, the context")
        for key in ("rope_theta", "learning_rate"):
            rate = getattr(self, key)
            need(key, rate is None or (is_number(rate) and rate > 0), "a number above 0")
        for key in ("rope_scaling", "schedule"):
            need(key, isinstance(getattr(self, key), dict | None), "a mapping")
        self._check_schedule(need)
        need("mixture", isinstance(self.mixture, dict | str | None), "shares by source, or the name of a mixture")
        if isinstance(self.mixture, str):
            need("mixture", self.mixture in MIXES, f"shares by source, or one of {', '.join(MIXES)}")
        shares = self.mixture if isinstance(self.mixture, dict) else {}
        need("mixture", all(is_number(share) and share >= 0 for share in shares.values()), "shares of at least 0")
        need("mixture", self.mixture is None or not shares or sum(shares.values()) > 0, "a share above 0")

    def _check_schedule(self, need: Callable[[str, Any, str], None]) -> None:
        need("learning_rate", self.learning_rate is None or self.schedule, "none without a schedule of the stage's own")
        if self.schedule is None:
            return
        kind, warmup = self.schedule.get("type"), self.schedule.get("warmup", 0)
        need("schedule", isinstance(kind, str), "a mapping with its type")
        need("schedule", type(warmup) is int and warmup >= 0, "a whole number of tokens as its warmup")
        taken = ("type", *TAKEN.get(kind, self.schedule))
        need("schedule", set(self.schedule) <= set(taken), f"only {', '.join(taken)} with {kind}")
        lengths = {name: self.schedule[name] for name in ("warmup", *PARTS) if is_number(self.schedule.get(name))}
        fits = sum(lengths.values()) <= self.tokens or self.portion
        need("schedule", fits, f"{' and '.join(lengths)} of at most {self.tokens} tokens, those of the stage")

    @property
    def where(self) -> str:
        """What an error calls it."""
        return f"stages[{self.number}]"

    def portions(self) -> list["Stage"]:
        """The further portions of tokens that its gate may ask for, at the rate at which the stage ends."""
        if self.gate is None:
            return []
        portion = replace(
            self, tokens=self.gate.portion or self.tokens, schedule={"type": "constant"}, learning_rate=None
        )
        numbers = range(1, self.gate.portions + 1)
        return [replace(portion, name=f"{self.name}, portion {number}", portion=number) for number in numbers]

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return self.batch // self.context

    @property
    def steps(self) -> int:
        return math.ceil(self.tokens / self.batch)

    def shares(self, weights: dict[str, float | None], where: str) -> list[float]:
        """The share of every source, 0 for one that is not read.

        Raises:
            StageError: a source that the run does not have, or one without a weight where no mixture is given.
        """
        mixture = MIXES[self.mixture] if isinstance(self.mixture, str) else self.mixture or weights
        for name in mixture:
            if name not in weights:
                raise StageError(f"{where}, key 'mixture': found {name!r}, expected sources among {', '.join(weights)}")
            if mixture[name] is None:
                if len(weights) == 1:
                    return [1.0]
                raise StageError(f"{where}, key 'mixture': found none, and no weight of the source {name}")
        return [mixture.get(name, 0) for name in weights]


class Timeline:
    """Which stage a step is in, and how many tokens were trained on before it.

    Behind a stage with a gate stand its further portions, of no step until they are taken.
    """

    def __init__(self, stages: Sequence[Stage]):
        self.stages = [one for stage in stages for one in (stage, *stage.portions())]
        self.taken: set[int] = set()
        self._count()

    def take(self, number: int) -> None:
        """Has a further portion, by its place among `stages`, be trained on."""
        self.taken.add(number)
        self._count()

    def _count(self) -> None:
        self.sizes = [
            0 if stage.portion and number not in self.taken else stage.steps for number, stage in enumerate(self.stages)
        ]
        self.firsts = [0, *accumulate(self.sizes)]
        self.starts = [0, *accumulate(n * stage.batch for n, stage in zip(self.sizes, self.stages, strict=True))]

    @property
    def steps(self) -> int:
        return self.firsts[-1]

    @property
    def most_steps(self) -> int:
        """Steps with every portion that a gate may ask for."""
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> int:
        """The number of the stage of a step; of the last stage behind the end."""
        return min(bisect_right(self.firsts, step), len(self.stages)) - 1

    def tokens_before(self, step: int) -> int:
        number = self.at(step)
        return self.starts[number] + (step - self.firsts[number]) * self.stages[number].batch


class Rates:
    """The learning rate of a step over `peak`, as a function of the tokens trained on before it.

    Args:
        kind, kwargs, warmup_steps: the run's schedule, over all stages that have none of their own; `warmup_steps` are
            steps, or their share if below 1. root: whether the rate grows with the root of the batch, from the first
            stage's on (Malladi et al., 2022, for Adam).

    Raises:
        StageError: a schedule that is no function of the step alone, arguments that it does not take or that count
            steps, or a stage that begins where the rate is 0.
    """

    def __init__(self, time: Timeline, peak: float, kind: str, kwargs: dict, warmup_steps: float, root: bool = False):
        self.time, self._peak = time, peak
        self._growth = [math.sqrt(one.batch / time.stages[0].batch) if root else 1.0 for one in time.stages]
        self._shared = [stage.schedule is None for stage in time.stages]
        sizes = [time.starts[i + 1] - time.starts[i] for i in range(len(time.stages))]
        self._before = [0, *accumulate(size * shared for size, shared in zip(sizes, self._shared, strict=True))]
        steps = sum(stage.steps for stage, shared in zip(time.stages, self._shared, strict=True) if shared)
        warmup = self._tokens_of(math.ceil(steps * warmup_steps) if warmup_steps < 1 else int(warmup_steps))
        if counting := [name for name in IN_STEPS if name in kwargs]:
            found = f"{counting[0]}: {kwargs[counting[0]]}, which counts steps"
            raise StageError(f"lr_scheduler_kwargs: found {found}, expected a stage with a schedule, in tokens")
        self._run = self._function("lr_scheduler_type", kind, warmup, self._before[-1], kwargs, peak)
        self._own: list[Callable[[int], float]] = []
        for number, stage in enumerate(time.stages):
            self._own.append(self._stage(number, stage, sizes[number]))

    def _tokens_of(self, steps: int) -> int:
        """Tokens of the first so many steps that follow the run's schedule."""
        tokens = 0
        for stage, shared in zip(self.time.stages, self._shared, strict=True):
            taken = min(steps, stage.steps) if shared else 0
            tokens, steps = tokens + taken * stage.batch, steps - taken
        return tokens

    def _end(self, number: int) -> float:
        return self._own[number](self.time.starts[number + 1] - self.time.starts[number])

    def _stage(self, number: int, stage: Stage, size: int) -> Callable[[int], float]:
        """The rate over `peak` and the growth with the batch, by tokens of the stage."""
        if self._shared[number]:
            return lambda tokens: self._run(self._before[number] + tokens)
        # what the rate is where the stage before ends
        start = self._end(number - 1) if number else 1.0
        if stage.learning_rate:
            start = stage.learning_rate / self._peak / self._growth[number]
        where = f"{stage.where}, key 'schedule'"
        if start <= 0 and stage.portion:
            raise StageError(
                f"{stage.where}, key 'gate': found a rate of 0 at the stage's end, at which no further portion can be "
                "trained, expected portions: 0 or another schedule"
            )
        if start <= 0:
            raise StageError(f"{where}: found a rate of 0 at its beginning, expected a learning_rate beside it")
        kwargs = dict(stage.schedule)
        kind, warmup = kwargs.pop("type"), kwargs.pop("warmup", 0)
        own = self._function(where, kind, warmup, size, kwargs, self._peak * start * self._growth[number])
        return lambda tokens: start * own(tokens)

    def _function(
        self, where: str, kind: str, warmup: int, total: int, kwargs: dict, peak: float
    ) -> Callable[[int], float]:
        # some schedules have a least rate, which they divide by this one
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
        try:
            made = get_scheduler(kind, optimizer, warmup, total, kwargs)
            return made.lr_lambdas[0]
        except Exception as error:  # whatever a schedule says to arguments that it does not take
            found = f"{kind} with {kwargs} ({type(error).__name__}: {error})"
            raise StageError(
                f"{where}: found {found}, expected a schedule of transformers' and its arguments"
            ) from error

    def factor(self, step: int) -> float:
        number = self.time.at(step)
        return self._own[number](self.time.tokens_before(step) - self.time.starts[number]) * self._growth[number]
