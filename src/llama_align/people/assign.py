"""Who is asked what next: what somebody has begun, second looks, gold now and then, and else the first item in need."""

import hashlib
import random
import time
from collections import Counter
from dataclasses import dataclass

from .batch import Item
from .store import ANSWERED, DONE, OPEN, SKIPS, WRITING, Store, Work

HELD = 1800  # seconds that an item is kept for who has it before them, when others could do it


@dataclass(frozen=True)
class Look:
    """A second look: what somebody else answered of an item, every turn."""

    item: Item
    person: str
    works: list[Work]


Task = Work | Look


def first_of(seed: int, item: str, person: str, turn: int) -> int:
    """Which of the two answers stands on the left: as good as drawn, and the same after a reload."""
    return hashlib.sha256(f"{seed}/{item}/{person}/{turn}/side".encode()).digest()[0] % 2


def next_task(store: Store, person: str) -> Task | None:
    """What somebody is asked now, which is theirs from then on; None where there is nothing.

    What was begun last comes first, so that a reload, or a server that was killed, shows the same again.
    """
    if store.taken or store.closed or is_paused(store, person):
        return None
    begun = store.works("person = ? AND state IN (?, ?)", person, OPEN, WRITING, order="opened DESC, turn DESC")
    if begun:
        return begun[0]
    if following := _next_turn(store, person):
        return following
    if look := _look(store, person):
        return look
    item = _gold(store, person) or _item(store, person)
    return None if item is None else _begin(store, item, person, 1)


def is_paused(store: Store, person: str) -> bool:
    """Whether a manager has paused somebody."""
    row = store.db.execute("SELECT paused FROM people WHERE name = ?", (person,)).fetchone()
    return bool(row and row[0])


def _begin(store: Store, item: Item, person: str, turn: int) -> Work:
    state = WRITING if turn > 1 or item.answers is None else OPEN
    store.open(item.id, person, turn, state, first_of(store.batch.settings.seed, item.id, person, turn))
    return store.work(item.id, person, turn)


def _next_turn(store: Store, person: str) -> Work | None:
    """The next turn of a conversation that has not ended."""
    latest = store.works("person = ? AND state = ? AND NOT ended", person, ANSWERED, order="turn DESC, at DESC")
    for work in latest:
        if store.work(work.item.id, person, work.turn + 1) is None:
            return _begin(store, work.item, person, work.turn + 1)
    return None


def _look(store: Store, person: str) -> Look | None:
    rows = store.db.execute("SELECT item, person, by, state, opened FROM looks").fetchall()
    taken = {row["item"]: row for row in rows}
    mine = [row for row in rows if row["by"] == person and row["state"] == OPEN]
    answered = store.works("state = ? AND ended AND person != ?", ANSWERED, person, order="at")
    for work in answered:
        row = taken.get(work.item.id)
        free = row is None or (row["state"] == OPEN and row["opened"] < time.time() - HELD)
        own = any((row["item"], row["person"]) == (work.item.id, work.person) for row in mine)
        if not own and (not free or not work.item.second_look or _has_had(store, work.item, person)):
            continue
        if not own:
            store.open_look(work.item.id, work.person, person)
        works = store.works("item = ? AND person = ? AND state = ?", work.item.id, work.person, ANSWERED)
        return Look(work.item, work.person, works)
    return None


def _has_had(store: Store, item: Item, person: str) -> bool:
    return store.work(item.id, person, 1) is not None


def _gold(store: Store, person: str) -> Item | None:
    """A gold item that somebody has not seen, at about every so manieth place, which nobody can foresee."""
    settings = store.batch.settings
    count = store.db.execute("SELECT COUNT(*) FROM work WHERE person = ?", (person,)).fetchone()[0]
    if random.Random(f"{settings.seed}/gold/{person}/{count}").random() >= settings.gold_share:
        return None
    unseen = [i for i in store.batch.items.values() if i.gold is not None and not _has_had(store, i, person)]
    return random.Random(f"{settings.seed}/which/{person}/{count}").choice(unseen) if unseen else None


def _item(store: Store, person: str) -> Item | None:
    """The first item that needs somebody; those that another has begun to answer for comparison come first."""
    fresh, shared, spare = None, None, None
    counts, held = store.counts(), _held(store)
    for item in store.batch.items.values():
        found = counts.get(item.id)
        if item.gold is not None or (found and _has_had(store, item, person)):
            continue
        if found is None:
            fresh = fresh or item
        elif found.skipped < SKIPS and found.answered < item.people:
            if found.answered + held[item.id] >= item.people:
                continue
            if found.answered or held[item.id]:
                shared = shared or item
            else:
                spare = spare or item
        if shared:
            break
    return shared or fresh or spare


def _held(store: Store) -> Counter[str]:
    """How many have an item before them, and have had so for less than `HELD` seconds."""
    rows = store.db.execute(
        "SELECT item FROM work GROUP BY item, person HAVING MAX(ended) = 0 AND SUM(state = 'skipped') = 0 "
        "AND MAX(opened) > ?",
        (time.time() - HELD,),
    )
    return Counter(row[0] for row in rows)


def looks_waiting(store: Store) -> int:
    """Second looks that could be taken now."""
    done = {row[0] for row in store.db.execute("SELECT item FROM looks WHERE state = ?", (DONE,))}
    answered = {work.item.id for work in store.works("state = ? AND ended", ANSWERED) if work.item.second_look}
    return len(answered - done)
