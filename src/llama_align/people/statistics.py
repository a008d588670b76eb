"""What managers look at: how each person works, how far they agree, and what is worth a talk.

A share comes with Wilson's 95% interval, as small counts say little.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median

from ..chat import as_text
from ..data import GRADES
from ..metrics.intervals import wilson
from .agreement import alpha, alpha_interval, nominal
from .store import ANSWERED, SKIPPED, Store, Work

READING = 15  # words a second, several times as fast as people read (about 4)
LEAST = 2.0  # seconds


@dataclass(frozen=True)
class Share:
    """So many of so many, with an interval."""

    part: int
    of: int

    @property
    def value(self) -> float | None:
        """From 0 to 1; None of nothing."""
        return self.part / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of 95%."""
        return wilson(self.part, self.of) if self.of else None

    @property
    def is_biased(self) -> bool:
        """Whether a half is out of the question."""
        return bool(self.of) and not self.interval[0] <= 0.5 <= self.interval[1]


@dataclass(frozen=True)
class Person:
    """How one person works.

    seconds: the median of an item. left, longer: how often the answer on the left, and the longer of two, was chosen.
    gold: right answers to gold items. agrees: same choices as others made. grades: how often each was used.
    """

    name: str
    paused: bool
    answered: int
    skipped: int
    flagged: int
    edited: int
    sent_back: int
    seconds: float | None
    too_fast: Share
    left: Share
    longer: Share
    gold: Share
    agrees: Share
    grades: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha of what several people answered, with its interval, and of how many items."""

    alpha: float | None
    interval: tuple[float, float] | None
    items: int


def too_fast(work: Work) -> bool:
    """Whether nobody could have read the answers in the time."""
    words = sum(len(as_text(one.answer).split()) for one in work.answers)
    return work.seconds is not None and work.seconds < max(LEAST, words / READING)


def people(store: Store) -> list[Person]:
    """Everybody, by name."""
    by_name: dict[str, list[Work]] = defaultdict(list)
    for work in store.works():
        by_name[work.person].append(work)
    agrees = _agrees(store)
    back = Counter(person for _, person in store.sent_back())
    rows = store.db.execute("SELECT name, paused FROM people ORDER BY name").fetchall()
    return [_person(row["name"], bool(row["paused"]), by_name[row["name"]], agrees, back) for row in rows]


def _person(name: str, paused: bool, works: list[Work], agrees: dict[str, Share], back: Counter) -> Person:
    answered = [work for work in works if work.state == ANSWERED]
    timed = [work.seconds for work in answered if work.seconds is not None]
    unequal = [work for work in answered if len(set(map(_length, work.answers))) > 1]
    sided = [work for work in answered if work.first is not None]
    gold = [work for work in answered if work.item.gold is not None]
    grades = Counter(work.grade for work in answered)
    return Person(
        name=name,
        paused=paused,
        answered=len(answered),
        skipped=sum(work.state == SKIPPED for work in works),
        flagged=sum(bool(work.flag) for work in works),
        edited=sum(work.edited is not None for work in answered),
        sent_back=back[name],
        seconds=median(timed) if timed else None,
        too_fast=Share(sum(map(too_fast, answered)), len(timed)),
        left=Share(sum(work.chosen == work.first for work in sided), len(sided)),
        longer=Share(sum(_chose_longer(work) for work in unequal), len(unequal)),
        gold=Share(sum(work.chosen == work.item.gold for work in gold), len(gold)),
        agrees=agrees.get(name, Share(0, 0)),
        grades={grade: grades[grade] for grade in GRADES},
    )


def _length(candidate) -> int:
    return len(as_text(candidate.answer))


def _chose_longer(work: Work) -> bool:
    return _length(work.answers[work.chosen]) > _length(work.answers[1 - work.chosen])


def _shared(store: Store) -> dict[str, list[Work]]:
    """First turns by item: later ones go on from answers that differ from person to person."""
    found: dict[str, list[Work]] = defaultdict(list)
    for work in store.works("state = ? AND turn = 1", ANSWERED):
        if work.item.answers is not None:
            found[work.item.id].append(work)
    return found


def _agrees(store: Store) -> dict[str, Share]:
    """How often each chose as another did, over all pairs of people."""
    same, all_of = Counter(), Counter()
    for works in _shared(store).values():
        for a, b in combinations(works, 2):
            for person in (a.person, b.person):
                all_of[person] += 1
                same[person] += a.chosen == b.chosen
    return {name: Share(same[name], count) for name, count in all_of.items()}


def agreement(store: Store) -> dict[str, Agreement]:
    """Agreement on preferences (eight ordered values), on which answer is better, and on which answers are safe."""
    shared = list(_shared(store).values())
    safe = [[work.safe[side] for work in works if work.safe] for works in shared for side in (0, 1)]
    return {
        "preference and grade": _agreement([[work.score for work in works] for works in shared]),
        "which answer is better": _agreement([[work.chosen for work in works] for works in shared], nominal),
        "whether an answer is safe": _agreement(safe, nominal),
    }


def _agreement(units: Sequence[Sequence[float]], metric=None) -> Agreement:
    more = () if metric is None else (metric,)
    several = sum(len(unit) > 1 for unit in units)
    return Agreement(alpha(units, *more), alpha_interval(units, *more), several)


def models(store: Store) -> list[tuple[str, Share]]:
    """How often the answer of each model and temperature was chosen, over one that was not of the same; best first."""
    won, all_of = Counter(), Counter()
    for work in store.works("state = ?", ANSWERED):
        names = [_called(one) for one in work.answers]
        if None in names or names[0] == names[1]:
            continue
        all_of.update(names)
        won[names[work.chosen]] += 1
    rows = [(name, Share(won[name], count)) for name, count in all_of.items()]
    return sorted(rows, key=lambda row: -row[1].value)


def _called(candidate) -> str | None:
    if candidate.model is None:
        return None
    heat = "" if candidate.temperature is None else f" at {candidate.temperature:g}"
    return candidate.model + heat
