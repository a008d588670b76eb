"""A pretraining run's budget: from parameters, tokens, FLOPs or a device and hours, the rest.

    C = 6 N D                         Kaplan et al. (2020), section 2.1: the compute that papers and laws mean
    hours = F / (peak x devices x MFU x 3600)
    F = D x (6 (N - embeddings) + 6 l h q L)    products of a known shape, attention over the causal half of its context

F counts attention, which C leaves out: for Llama 3.1's 405B a 24th of C at 8,192 tokens, two thirds of it at 131,072.
Where only a number of parameters is known, F is C.
"""

import math
from dataclasses import dataclass

from .cost import HALF, _bytes, activation_bytes, flops_of, logit_bytes
from .cost import parameters as parts_of
from .devices import known_peak
from .footprint import OPTIMIZER, TRAINED, gathered_bytes
from .laws import FITTED, LAWS, PER_PARAMETER_AND_TOKEN, Law
from .published import Shape, shape

MFU = 0.40  # Llama 3, section 3.3.2: 38 to 43% in bfloat16
HOUR = 3600
SMALLER = (1, 1 / 2, 1 / 4, 1 / 8)
CHUNK = 2048  # tokens whose logits exist at once, as in kernels/head.py


@dataclass(frozen=True)
class Longer:
    """A model that reaches the budget's loss, beside the one that does so with the least compute.

    Args:
        share: its parameters against those of the cheapest. tokens: that it has to read; None: it never gets there.
        extra: its training compute against the cheapest's. pays_after: tokens of inference after which both cost the
            same (Sardana and Frankle, 2023); None: never, or from the start.
    """

    share: float
    parameters: float
    tokens: float | None
    extra: float | None
    pays_after: float | None


@dataclass(frozen=True)
class Stage:
    """Bytes of one device under a stage of ZeRO: states of parameters, and weights gathered for the layer at work."""

    name: str
    states: float
    gathered: float

    @property
    def total(self) -> float:
        return self.states + self.gathered


@dataclass(frozen=True)
class Budget:
    """What `budget` found; `str()` of it is a table.

    Args:
        name: of the size, if it is one. given: what the rest was computed from. flops: 6 N D. products: F of this
            module. hours: of all devices at once.
    """

    name: str | None
    given: tuple[str, ...]
    parameters: float
    tokens: float
    context: int | None
    products: float
    device: str
    devices: int
    peak: float
    mfu: float
    law: Law
    shape: Shape | None = None

    @property
    def flops(self) -> float:
        return PER_PARAMETER_AND_TOKEN * self.parameters * self.tokens

    @property
    def hours(self) -> float:
        return self.products / (self.peak * self.devices * self.mfu * HOUR)

    @property
    def loss(self) -> float:
        return self.law.loss(self.parameters, self.tokens)

    @property
    def optimum(self) -> tuple[float, float]:
        """Parameters and tokens that make the least loss of the same 6 N D."""
        return self.law.optimum(self.flops)

    def longer(self, shares: tuple[float, ...] = SMALLER) -> list[Longer]:
        """Models of the same loss: the cheapest to train, shares of its size, and the own of the budget if another."""
        least, tokens = self.law.cheapest(self.loss)
        compute = PER_PARAMETER_AND_TOKEN * least * tokens
        found = []
        own = [] if math.isclose(self.parameters, least, rel_tol=0.01) else [self.parameters]
        for size in sorted([*(share * least for share in shares), *own], reverse=True):
            needed = self.law.tokens_to(self.loss, size)
            spent = None if needed is None else PER_PARAMETER_AND_TOKEN * size * needed
            saved = PER_PARAMETER_AND_TOKEN / 3 * (least - size)  # a token of inference costs 2 N
            pays = (spent - compute) / saved if spent and size < least else None
            found.append(Longer(size / least, size, needed, spent and spent / compute, pays))
        return found

    def memory(self) -> list[Stage]:
        """Bytes of states on each device by stage of ZeRO (Rajbhandari et al., 2020, section 5), in mixed precision."""
        n, copies = self.parameters, self.devices
        gradient = weight = 2
        by_stage = {
            "0": TRAINED,
            "1": weight + gradient + OPTIMIZER / copies,
            "2": weight + (gradient + OPTIMIZER) / copies,
            "3": TRAINED / copies,
        }
        gathered = gathered_bytes(self.shape, HALF) if self.shape and copies > 1 else 0
        return [Stage(name, n * size, gathered * (name == "3")) for name, size in by_stage.items()]

    def row_bytes(self) -> int | None:
        """Bytes of a row of `context` tokens in training beside the states, with gradient checkpointing."""
        if not self.shape:
            return None
        kept = activation_bytes(self.shape, 1, self.context, HALF, checkpointing=True)
        return kept + logit_bytes(self.shape, self.context, HALF, CHUNK)

    def __str__(self) -> str:
        told = f"{self.name or 'a model'}: {short(self.parameters)} parameters, {short(self.tokens)} tokens"
        best, tokens = self.optimum
        least = f"{short(best)} on {short(tokens)} tokens: {self.law.loss(best, tokens):.3f}"
        used = f"{self.devices:,} x {self.device} at {self.mfu:.1%}"
        rows = [
            ("compute, 6 N D", f"{self.flops:.3g} FLOPs"),
            *([(f"with attention at {self.context:,}", f"{self.products:.3g} FLOPs")] if self.shape else []),
            (used, f"{self.hours:,.1f} hours, {self.hours / 24:,.1f} days"),
            ("device hours", f"{self.hours * self.devices:,.0f}"),
            (f"loss by the law ({self.law.name})", f"{self.loss:.3f} nats a token"),
            ("least loss of this compute", least),
        ]
        lines = [f"{told}, {self.tokens / self.parameters:.1f} a parameter; from {', '.join(self.given)}", ""]
        lines += [f"{name:<34}{value}" for name, value in rows]
        lines += ["", "the same loss        parameters     tokens   training   inference   pays after"]
        lines += [_row(row, self.parameters) for row in self.longer()]
        lines += ["", f"memory of each of {self.devices:,}"]
        lines += [f"  ZeRO {stage.name:<27}{_bytes(stage.total):>12}" for stage in self.memory()]
        if self.shape:
            lines.append(f"  {f'a row of {self.context:,} tokens':<32}{_bytes(self.row_bytes()):>12}")
        if self.mfu > 1:
            lines += ["", f"No device reaches {self.mfu:.0%} of its peak: more hours or devices, or another one."]
        low, high = FITTED
        if not all(low <= size <= high for size in (self.parameters, best)):
            lines += ["", f"The law was fitted on models of {short(low)} to {short(high)}; beyond them it is a guess."]
        return "\n".join(lines)


def _row(row: Longer, own: float) -> str:
    name = "this model" if row.parameters == own else "cheapest" if row.share == 1 else f"{row.share:.3g} of it"
    start = f"  {name:<16}{short(row.parameters):>13}"
    if row.tokens is None:
        return f"{start}      never"
    pays = short(row.pays_after) if row.pays_after else "-"
    return f"{start}{short(row.tokens):>11}{row.extra:>10.2f}x{row.share:>11.2f}x{pays:>13}"


def short(number: float) -> str:
    """A number as papers write it: 405.85B, 15.6T."""
    for size, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.4g}{sign}"
    return f"{number:.4g}"


def budget(
    *,
    size: str | Shape | None = None,
    parameters: float | None = None,
    tokens: float | None = None,
    flops: float | None = None,
    hours: float | None = None,
    device: str | float = "H100",
    devices: int = 1,
    mfu: float | None = None,
    context: int | None = None,
    law: str = "refit",
) -> Budget:
    """The rest of a budget. `print(budget(size="llama-3.1-405b", tokens=15.6e12, devices=16384))` is a table.

    Of one quantity (parameters, tokens, or compute as FLOPs or hours) the others follow at the least loss; of two the
    third; of parameters, tokens and hours the utilisation.

    Args:
        size: a name of `PRESETS` or a shape; parameters: their number, where it is none.
        tokens: of training. flops: 6 N D. hours: that all devices run.
        device: a name as drivers give it, such as H100, or FLOP/s. devices: how many. mfu: share of the peak
            (default 0.40).
        context: tokens of a row, for a size (default: that of its pretraining).
        law: `refit` (Besiroglu et al., 2024) or `chinchilla` (Hoffmann et al., 2022).

    Raises:
        ValueError: nothing given, more given than fits together, a number that is not above 0, an unknown name.
    """
    numbers = {"parameters": parameters, "tokens": tokens, "flops": flops, "hours": hours}
    given = [name for name, value in {"size": size, **numbers}.items() if value is not None]
    _check(given, {**numbers, "devices": devices, "mfu": mfu, "context": context}, law)
    peak = device if isinstance(device, int | float) else known_peak(device)
    if not peak or not peak > 0:
        raise ValueError(f"device: found {device!r}, expected the name of a known one, such as H100, or its FLOP/s")
    known = shape(size) if isinstance(size, str) else size
    if known:
        parameters, context = parts_of(known).total, context or known.pretrained_context

    def products(count: float) -> float:
        """F of one token for so many parameters."""
        if not known:
            return PER_PARAMETER_AND_TOKEN * count
        return flops_of(known, context, context * (context + 1) // 2, context).per_token

    spent = hours and hours * HOUR * peak * devices * (mfu or MFU)
    if parameters and tokens:
        mfu = products(parameters) * tokens / (hours * HOUR * peak * devices) if hours else mfu
    elif parameters and (flops or spent):
        tokens = flops / (PER_PARAMETER_AND_TOKEN * parameters) if flops else spent / products(parameters)
    elif tokens and (flops or spent):
        parameters = (flops or spent) / (PER_PARAMETER_AND_TOKEN * tokens)
    elif parameters:
        tokens = LAWS[law].tokens_of(parameters)
    elif tokens:
        parameters = LAWS[law].parameters_of(tokens)
    else:
        parameters, tokens = LAWS[law].optimum(flops or spent)
    return Budget(
        name=size if isinstance(size, str) else None,
        given=tuple(given),
        parameters=parameters,
        tokens=tokens,
        context=context,
        products=products(parameters) * tokens,
        device=device if isinstance(device, str) else f"{device:.3g} FLOP/s",
        devices=devices,
        peak=peak,
        mfu=mfu or MFU,
        law=LAWS[law],
        shape=known,
    )


def _check(given: list[str], numbers: dict[str, float | None], law: str) -> None:
    """Raises ValueError for what `budget` does not take together."""
    for name, number in numbers.items():
        if number is not None and not 0 < number < float("inf"):
            raise ValueError(f"{name}: found {number!r}, expected a number above 0")
    for one, other in (("hours", "flops"), ("parameters", "size")):
        if one in given and other in given:
            raise ValueError(f"{one}: found it beside {other}, expected one of the two")
    if not given:
        raise ValueError("budget: found nothing to start from, expected a size, parameters, tokens, flops or hours")
    if len(given) > 2 and "flops" in given:
        raise ValueError(f"flops: found it beside {given[0]} and tokens, which give it, expected two of the three")
    if len(given) > 2 and numbers["mfu"]:
        raise ValueError(f"mfu: found it beside {given[0]}, tokens and hours, which give it, expected none")
    if numbers["context"] and "size" not in given:
        raise ValueError(f"context: found {numbers['context']} without a size, whose attention is counted with it")
    if law not in LAWS:
        raise ValueError(f"law: found {law!r}, expected one of {', '.join(LAWS)}")
