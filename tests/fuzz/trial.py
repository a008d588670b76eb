"""One input and what became of it: refused by name, taken though changed, or a fault."""

import random
import re
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from llama_align.chat import ContractError
from llama_align.data import RecordError, SourceError
from llama_align.recipe import RecipeError
from llama_align.rounds import PlanError

OURS = (RecipeError, RecordError, SourceError, ContractError, PlanError)
# every refusal says what was found and what was expected, or that something is not there at all
NAMED = re.compile(
    r"(found|holds).*expected|unknown|there is no such|not valid JSON|is not set|^options: |: no \w+ in its", re.DOTALL
)
SECONDS = 60  # of the clock, on machines that others load
SAME, OTHER = "same", "other"


class Hang(BaseException):
    """An input that took longer than `SECONDS`."""


@dataclass
class Trial:
    """A changed input.

    kind: the change, by which `accepted` lists those that are taken on purpose. run: returns SAME where what was read
    is what the unchanged input says, OTHER where it is not, and raises what a user would see.
    """

    kind: str
    run: Callable[[], str]
    shown: str = ""


@dataclass
class Report:
    """Counts by outcome, and every fault."""

    outcomes: Counter = field(default_factory=Counter)
    taken: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        taken = "".join(f"\n  taken: {count} x {kind}" for kind, count in sorted(self.taken.items()))
        return counts + taken + "".join(f"\n  FAULT {fault}" for fault in self.faults)


@contextmanager
def time_limit(seconds: float):
    def stop(*_):
        raise Hang

    kept = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)


def run_all(trials: Iterable[Trial], accepted: dict[str, str]) -> Report:
    """Runs every trial.

    Args:
        accepted: patterns of kinds that may be taken though they change what is read, each with the reason.
    """
    report = Report()
    for trial in trials:
        try:
            with time_limit(SECONDS):
                outcome = trial.run()
        except OURS as error:
            outcome = "refused"
            if not NAMED.search(str(error)) or len(str(error)) > 2000:
                outcome = "refused without a cause"
                report.faults.append(f"{trial.kind}: {outcome}: {error}\n    {trial.shown[:500]}")
        except Hang:
            outcome = "hang"
            report.faults.append(f"{trial.kind}: more than {SECONDS} seconds\n    {trial.shown[:500]}")
        except Exception as error:
            outcome = "traceback"
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{last.filename.split('site-packages/')[-1]}:{last.lineno}"
            report.faults.append(f"{trial.kind}: {type(error).__name__}: {error} ({place})\n    {trial.shown[:500]}")
        if outcome == OTHER:
            pattern = next((p for p in accepted if fnmatchcase(trial.kind, p)), None)
            if pattern is None:
                outcome = "wrongly taken"
                report.faults.append(f"{trial.kind}: taken\n    {trial.shown[:500]}")
            else:
                report.taken[pattern] += 1
        report.outcomes[outcome] += 1
    return report


def changed_bytes(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Content that was cut, or in which a byte was flipped, doubled or lost."""
    place = draw.randrange(max(1, len(content)))
    how = draw.choice(["cut", "flipped", "lost", "doubled"])
    if how == "cut" or not content:
        return "cut", content[:place]
    if how == "flipped":
        return how, content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
    if how == "lost":
        return how, content[:place] + content[place + 1 :]
    return how, content[:place] + content[place : place + 1] + content[place:]
