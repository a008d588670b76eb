"""How a batch stands: SQLite made of its log, and of what that need not have (who has which item before them, drafts).

The log is the truth. A table that is lost, or behind it, is made of it again; who only reads makes one in memory.
"""

import json
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chat import Message, as_message
from ..data import GRADES
from ..recipe.errors import WAITS
from ..runtime.files import write_json
from .batch import FOLDER, Batch, Candidate, Item
from .log import Log, events

TABLE = "people.sqlite"
PREFERENCES = "preferences.jsonl"  # what a step leaves when its batch is full
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS people(name TEXT PRIMARY KEY, paused INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS work(
  item TEXT, person TEXT, turn INTEGER, state TEXT NOT NULL DEFAULT 'open', prompt TEXT, answers TEXT, first INTEGER,
  chosen INTEGER, grade TEXT, safe TEXT, edited TEXT, seconds REAL, reason TEXT, flag TEXT,
  ended INTEGER NOT NULL DEFAULT 0, at REAL, opened REAL, draft TEXT, PRIMARY KEY(item, person, turn));
CREATE INDEX IF NOT EXISTS work_of_person ON work(person, state);
CREATE TABLE IF NOT EXISTS looks(
  item TEXT PRIMARY KEY, person TEXT, by TEXT, state TEXT NOT NULL, stands INTEGER, note TEXT, at REAL, opened REAL);
"""
OPEN, WRITING, ANSWERED, SKIPPED, DONE = "open", "writing", "answered", "skipped", "done"
SKIPS = 2  # people who skip an item before it is left out


@dataclass(frozen=True)
class Work:
    """One person's turn of one item. first: which of the two answers stands on the left; None where nobody knows."""

    item: Item
    person: str
    turn: int
    state: str
    prompt: list[Message] | None
    answers: tuple[Candidate, Candidate] | None
    first: int | None
    chosen: int | None
    grade: str | None
    safe: list[bool] | None
    edited: str | None
    seconds: float | None
    reason: str | None
    flag: str | None
    ended: bool
    at: float | None
    opened: float | None
    draft: dict[str, str]

    @property
    def score(self) -> int:
        """From -4, the first of the item's two answers significantly better, to 4, the second; never 0."""
        size = len(GRADES) - GRADES.index(self.grade)
        return size if self.chosen else -size


@dataclass(frozen=True)
class Counts:
    """How many have answered an item to its end and have skipped it, and whether somebody took a second look."""

    answered: int = 0
    skipped: int = 0
    looked: bool = False

    def done_of(self, item: Item) -> int:
        """Pieces of work that are done, at most those needed; none are left of what several have skipped."""
        if self.skipped >= SKIPS:
            return item.needed - bool(item.second_look and self.answered and not self.looked)
        return min(self.answered, item.people) + (item.second_look and self.looked) if item.needed else 0


class Store:
    """A batch and how it stands.

    Args:
        log: of a process that serves the batch, and so may write; None: only to read.
    """

    def __init__(self, folder: Path, log: Log | None = None):
        self.folder, self.batch, self.log = Path(folder), Batch.read(folder), log
        self._db = self._open() if log else _connect(":memory:")
        self.db.executescript(SCHEMA)
        self._catch_up()
        self.tell()

    @property
    def db(self) -> sqlite3.Connection:
        """The table, for questions of one's own."""
        return self._db

    def _open(self) -> sqlite3.Connection:
        path = self.folder / FOLDER / TABLE
        for _ in range(2):
            try:
                db = _connect(path)
                db.execute("PRAGMA journal_mode=WAL")
                db.executescript(SCHEMA)
                if self._applied(db) <= self.log.number:
                    return db
                db.close()  # made of a log that is not this one
            except sqlite3.DatabaseError:
                pass
            for beside in ("", "-wal", "-shm"):
                path.with_name(path.name + beside).unlink(missing_ok=True)
        raise sqlite3.DatabaseError(f"{path}: cannot be made")

    @staticmethod
    def _applied(db: sqlite3.Connection) -> int:
        row = db.execute("SELECT value FROM meta WHERE key = 'n'").fetchone()
        return row[0] if row else 0

    def _catch_up(self) -> None:
        done = self._applied(self.db)
        for event in events(self.folder):
            if event["n"] > done:
                self._apply(event)

    def close(self) -> None:
        """Lets another process serve the batch."""
        self.db.close()
        if self.log:
            self.log.close()

    def write(self, kind: str, **fields: Any) -> None:
        """Keeps what somebody did: in the log, then in the table. Raises OSError where the disk refuses."""
        self._apply(self.log.append(kind, **fields))
        self.tell()

    def tell(self) -> None:
        """Tells whoever waits for the batch how far it is."""
        if self.log:
            done, needed = self.done()
            with suppress(OSError):  # what was done is kept, whoever hears of it
                write_json(self.folder / WAITS, {"done": done, "of": needed, "by": "people"})

    def _apply(self, event: dict[str, Any]) -> None:
        with self.db:
            getattr(self, f"_do_{event['kind']}")(event)
            self.db.execute("INSERT OR REPLACE INTO meta VALUES ('n', ?)", (event["n"],))

    # -- what an event does

    def _do_joined(self, event: dict) -> None:
        self.db.execute("INSERT OR IGNORE INTO people(name) VALUES (?)", (event["person"],))

    def _do_paused(self, event: dict) -> None:
        self._do_joined(event)
        self.db.execute("UPDATE people SET paused = ? WHERE name = ?", (event["paused"], event["person"]))

    def _do_closed(self, event: dict) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES ('closed', ?)", (event["closed"],))

    def _do_drawn(self, event: dict) -> None:
        self._set(
            event, state=OPEN, prompt=json.dumps(event["prompt"]), answers=json.dumps(event["answers"]), draft=None
        )

    def _do_answered(self, event: dict) -> None:
        self._do_joined(event)
        values = {name: event[name] for name in ("first", "chosen", "grade", "edited", "seconds", "ended", "at")}
        self._set(event, state=ANSWERED, safe=json.dumps(event["safe"]), draft=None, **values)

    def _do_skipped(self, event: dict) -> None:
        self._do_joined(event)
        self._set(event, state=SKIPPED, reason=event["reason"], at=event["at"], draft=None)
        self._end(event, event["turn"] - 1)

    def _do_ended(self, event: dict) -> None:
        self.db.execute("DELETE FROM work WHERE item = ? AND person = ? AND turn > ?", _key(event))
        self._end(event, event["turn"])

    def _end(self, event: dict, turn: int) -> None:
        self.db.execute(
            "UPDATE work SET ended = 1 WHERE item = ? AND person = ? AND turn = ?", (*_key(event)[:2], turn)
        )

    def _do_flagged(self, event: dict) -> None:
        self._set(event, flag=event["note"])

    def _do_undone(self, event: dict) -> None:
        """The last work of an item is open again, with what was said of it as its draft."""
        item, person, turn = key = _key(event)
        row = self.db.execute("SELECT * FROM work WHERE item = ? AND person = ? AND turn = ?", key).fetchone()
        self.db.execute("DELETE FROM work WHERE item = ? AND person = ? AND turn > ?", key)
        self.db.execute(
            "UPDATE work SET ended = 0 WHERE item = ? AND person = ? AND turn = ?", (item, person, turn - 1)
        )
        draft = json.dumps(_as_draft(row)) if row["state"] == ANSWERED else None
        self._set(event, state=OPEN, ended=0, at=None, reason=None, draft=draft, opened=event["at"])

    def _do_looked(self, event: dict) -> None:
        row = [event[name] for name in ("item", "person", "by")]
        self.db.execute(
            "INSERT OR REPLACE INTO looks(item, person, by, state, stands, note, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (*row, DONE, event["stands"], event["note"], event["at"]),
        )

    def _set(self, event: dict, **values: Any) -> None:
        """Puts values into the row of an event's work, which is made where there is none."""
        columns = ["item", "person", "turn", *values]
        updates = ", ".join(f"{name} = excluded.{name}" for name in values)
        self.db.execute(
            f"INSERT INTO work({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "
            f"ON CONFLICT(item, person, turn) DO UPDATE SET {updates}",
            (*_key(event), *values.values()),
        )

    # -- what need not be in the log

    def open(self, item: str, person: str, turn: int, state: str, first: int) -> None:
        """Somebody has this before them from now on."""
        event = {"item": item, "person": person, "turn": turn}
        with self.db:
            self._set(event, state=state, first=first, opened=time.time())

    def open_look(self, item: str, person: str, by: str) -> None:
        """Somebody has another's answer before them from now on."""
        row = (item, person, by, OPEN, time.time())
        with self.db:
            self.db.execute("INSERT OR REPLACE INTO looks(item, person, by, state, opened) VALUES (?, ?, ?, ?, ?)", row)

    def draft(self, item: str, person: str, turn: int, draft: dict[str, str]) -> None:
        """Keeps what somebody has entered and not sent yet."""
        with self.db:
            self.db.execute(
                "UPDATE work SET draft = ? WHERE item = ? AND person = ? AND turn = ? AND state IN (?, ?)",
                (json.dumps(draft), item, person, turn, OPEN, WRITING),
            )

    # -- how it stands

    @property
    def taken(self) -> bool:
        """Whether the step has ended and what people said went on from it, so that nothing is to change."""
        return (self.folder / PREFERENCES).is_file()

    @property
    def closed(self) -> bool:
        """Whether a manager takes the batch as it is."""
        row = self.db.execute("SELECT value FROM meta WHERE key = 'closed'").fetchone()
        return bool(row and row[0])

    def works(self, where: str = "1", *values: Any, order: str = "item, person, turn") -> list[Work]:
        """Work that a condition of SQL is true of."""
        rows = self.db.execute(f"SELECT * FROM work WHERE {where} ORDER BY {order}", values).fetchall()
        return [self._work(row) for row in rows if row["item"] in self.batch.items]

    def work(self, item: str, person: str, turn: int) -> Work | None:
        """One turn, None where nobody has had it before them."""
        return next(iter(self.works("item = ? AND person = ? AND turn = ?", item, person, turn)), None)

    def _work(self, row: sqlite3.Row) -> Work:
        fields = dict(row) | {"item": (item := self.batch.items[row["item"]])}
        answers = [Candidate(**one) for one in _loaded(row["answers"]) or ()]
        fields["prompt"] = _loaded(row["prompt"]) or (item.prompt if row["turn"] == 1 else None)
        fields["answers"] = tuple(answers) or (item.answers if row["turn"] == 1 else None)
        fields |= {"safe": _loaded(row["safe"]), "draft": _loaded(row["draft"]) or {}, "ended": bool(row["ended"])}
        return Work(**fields)

    def before(self, work: Work) -> list[Message]:
        """The dialog that a turn goes on from: the one before with its chosen answer, as it was edited."""
        last = self.work(work.item.id, work.person, work.turn - 1)
        if last is None:
            return []
        said = last.answers[last.chosen].answer if last.edited is None else last.edited
        return [*last.prompt, as_message(said)]

    def counts(self) -> dict[str, Counts]:
        """How far every item is that somebody has had before them."""
        rows = self.db.execute(
            "SELECT item, SUM(state = 'answered' AND ended), SUM(state = 'skipped' AND turn = 1) "
            "FROM work GROUP BY item"
        ).fetchall()
        looked = {row[0] for row in self.db.execute("SELECT item FROM looks WHERE state = ?", (DONE,))}
        return {item: Counts(answered, skipped, item in looked) for item, answered, skipped in rows}

    def done(self) -> tuple[int, int]:
        """Pieces of work that are done and needed in all; all are done when a manager has closed the batch."""
        needed = self.batch.needed
        if self.closed:
            return needed, needed
        return sum(found.done_of(self.batch.items[name]) for name, found in self.counts().items()), needed

    @property
    def full(self) -> bool:
        """Whether nothing is left to be done."""
        done, needed = self.done()
        return done >= needed

    def sent_back(self) -> set[tuple[str, str]]:
        """Items and people whose answers a second look has not let stand."""
        rows = self.db.execute("SELECT item, person FROM looks WHERE state = ? AND NOT stands", (DONE,))
        return {tuple(row) for row in rows}


def _connect(path: Path | str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10)
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA synchronous=NORMAL")  # the log is on the disk before
    return db


def _key(event: dict) -> tuple[str, str, int]:
    return event["item"], event["person"], event["turn"]


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _as_draft(row: sqlite3.Row) -> dict[str, str]:
    """What somebody had entered, by the names of the page's form: sides are as they see them."""
    size, first = len(GRADES) - GRADES.index(row["grade"]), row["first"]
    right = row["chosen"] != first
    draft = {"choice": str((len(GRADES) + size) if right else (len(GRADES) + 1 - size))}
    draft["seconds"] = str(row["seconds"])
    safe = _loaded(row["safe"])
    if safe is not None:
        draft |= {"safe_left": str(int(safe[first])), "safe_right": str(int(safe[1 - first]))}
    if row["edited"] is not None:
        draft |= {"edited": row["edited"], "edited_of": "right" if right else "left"}
    return draft
