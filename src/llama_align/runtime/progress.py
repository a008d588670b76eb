"""How far a piece of work is, told to whoever shows it: a bar, a line of a terminal, or the manager of a run.

A step tells its manager through a small file that is replaced as a whole: neither end harms the other, and they may be
on different machines. Unless told otherwise a bar of tqdm shows it, in a notebook the notebook's own.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

FILE = "LLAMA_ALIGN_PROGRESS"  # environment of a step: the file in which its manager reads how far it is
EVERY = 0.25  # seconds between two tellings
SPEED = "tokens_per_second"
T = TypeVar("T")


@dataclass(frozen=True)
class Standing:
    """How far a piece of work is.

    Args:
        done, total: in `unit`; total None where nobody knows. seconds: at work. rate: units a second, of this process
            alone where a run goes on from a checkpoint. facts: numbers of interest by name (loss, tokens_per_second).
        part: which of several pieces this is.
    """

    done: float
    total: float | None
    unit: str
    seconds: float = 0.0
    rate: float = 0.0
    facts: Mapping[str, float] = field(default_factory=dict)
    part: str = ""

    @property
    def share(self) -> float | None:
        """Of the whole, 0 to 1; None where nobody knows."""
        return None if not self.total else min(1.0, self.done / self.total)

    @property
    def left(self) -> float | None:
        """Seconds to go at this rate."""
        return None if not self.total or not self.rate else max(0.0, self.total - self.done) / self.rate

    @property
    def numbers(self) -> str:
        """What was measured last, each behind a comma; of the speed nothing."""
        return "".join(f", {name} {value:.3f}" for name, value in self.facts.items() if name != SPEED)

    def words(self) -> list[str]:
        """What to say about it: counts, part, numbers, speed, time left."""
        count = f"{self.done:.10g}" + (f"/{self.total:.10g}" if self.total else "")
        said = [f"{count} {self.unit}{'s' * (self.total != 1)}", *([self.part] if self.part else [])]
        said += [f"{name} {value:.3f}" for name, value in self.facts.items() if name != SPEED]
        if speed := self.facts.get(SPEED):
            said.append(f"{short(speed)} tokens/s")
        elif self.rate:
            said.append(
                f"{short(self.rate)} {self.unit}s/s" if self.rate >= 1 else f"{1 / self.rate:.1f} s/{self.unit}"
            )
        if self.left is not None and self.done < self.total:
            said.append(f"{clock(self.left)} left")
        return said


def short(number: float) -> str:
    """Three digits and a letter: 31.2k."""
    for letter in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g}{letter}" if number < 999.5 else f"{number:.0f}{letter}"
        number /= 1000
    return f"{number:.3g}G"


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are some."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Shower(Protocol):
    """Shows how far this process is; `end` comes once for every piece of work."""

    def show(self, standing: Standing) -> None: ...

    def end(self, standing: Standing) -> None: ...


class Bar:
    """A bar of tqdm on stderr; in a notebook, the notebook's."""

    def __init__(self):
        self._bar = None

    def show(self, standing: Standing) -> None:
        if self._bar is None:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=standing.total, unit=standing.unit, desc=standing.part or None)
        words = [word for word in standing.words()[1:] if word != standing.part and not word.endswith(" left")]
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.update(standing.done - self._bar.n)

    def end(self, standing: Standing) -> None:
        self.show(standing)
        self._bar.close()
        self._bar = None


class File:
    """A file that a manager reads. What a kill leaves is an older one, which is as good."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def show(self, standing: Standing) -> None:
        beside = self.path.with_name(f"{self.path.name}.part")
        with suppress(OSError):  # a full disk must not end the work that is told of
            beside.write_text(json.dumps(asdict(standing)))
            os.replace(beside, self.path)

    end = show


def read(path: Path) -> Standing | None:
    """What a step told last; None where it told nothing yet."""
    try:
        return Standing(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


_shower: Shower | None = None
_part = ""


def shower() -> Shower | None:
    """Who shows it, where somebody was told to: `shown_by`, or the manager that started this process."""
    if _shower is None and FILE in os.environ:
        return File(os.environ[FILE])
    return _shower


@contextmanager
def shown_by(one: Shower) -> Iterator[None]:
    """Has everything in this process shown by one."""
    global _shower
    before, _shower = _shower, one
    try:
        yield
    finally:
        _shower = before


def parts(named: Iterable[str]) -> Iterator[str]:
    """Each in turn; what is told meanwhile is told to be of that one of so many."""
    global _part
    named = list(named)
    try:
        for number, name in enumerate(named, start=1):
            _part = f"{name} ({number} of {len(named)})" if len(named) > 1 else name
            yield name
    finally:
        _part = ""


class Task:
    """A piece of work as a context; silent unless `shown`. What is done is added with `add` or set with `at`.

    Args:
        done: what an earlier process did of it.
    """

    def __init__(self, total: float | None, unit: str, shown: bool = True, done: float = 0):
        self._shower = (shower() or Bar()) if shown else None
        self.total, self.unit, self.done = total, unit, done
        self._first, self._told = done, 0.0
        self.facts: dict[str, float] = {}
        self.part = _part

    def __enter__(self) -> "Task":
        self._began = time.monotonic()
        self._tell()
        return self

    def __exit__(self, *_) -> None:
        if self._shower:
            self._shower.end(self.standing)

    @property
    def seconds(self) -> float:
        """At work."""
        return time.monotonic() - self._began

    @property
    def standing(self) -> Standing:
        """How far it is."""
        seconds = self.seconds
        rate = (self.done - self._first) / seconds if seconds else 0.0
        return Standing(self.done, self.total, self.unit, seconds, rate, dict(self.facts), self.part)

    def add(self, number: float = 1, **facts: float) -> None:
        """So much more is done."""
        self.at(self.done + number, **facts)

    def counting(self, each: Iterable[T]) -> Iterator[T]:
        """The same, one more done behind each."""
        for one in each:
            yield one
            self.add(1)

    def at(self, done: float, part: str = "", **facts: float) -> None:
        """So much is done in all, and this part is next; numbers of interest stay until they are told again."""
        self.done, new = done, bool(part)
        self.part = part or self.part
        self.facts |= facts
        if new or time.monotonic() - self._told >= EVERY:
            self._tell()

    def _tell(self) -> None:
        if self._shower:
            self._told = time.monotonic()
            self._shower.show(self.standing)
