"""The routes of annotators: the item before them, and what they do with it."""

import time
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .answers import CHOICES, DRAFTED, LONGEST, NOTE, Refused, read_answer, read_text
from .app import REASONS, Site, form_of, see_other
from .assign import Look, is_paused, next_task
from .security import ANNOTATOR
from .store import ANSWERED, OPEN, SKIPPED, WRITING, Work

GONE = "This was answered already, perhaps in another window. Reload the page to go on."


def routes(site: Site) -> list[Route]:
    """All of them; those that change something want an annotator's cookie."""
    desk = Desk(site)
    posts = ("answer", "skip", "flag", "undo", "draft", "write", "end", "look")
    return [
        Route("/", desk.home),
        *(Route(f"/{name}", desk.guarded(getattr(desk, name)), methods=["POST"]) for name in posts),
    ]


class Desk:
    """What an annotator sees and does."""

    def __init__(self, site: Site):
        self.site, self.store = site, site.store

    def guarded(self, do):
        """A route that somebody known may use, while they are not paused and the batch is open."""

        async def route(request: Request) -> Response:
            person = self.site.who(request, ANNOTATOR)
            if person is None:
                return self.site.page("error.html", 401, why="Come in by your personal link first.")
            if self.store.taken or self.store.closed or is_paused(self.store, person):
                raise Refused("This batch is not open to you any more. What you sent before is kept.")
            return await do(person, await form_of(request))

        return route

    async def home(self, request: Request) -> Response:
        person = self.site.who(request, ANNOTATOR)
        if person is None:
            return self.site.page("welcome.html", local=self.site.local)
        self.site.join(person)  # whoever has a cookie of a batch whose log was lost
        task = next_task(self.store, person)
        shared = {"person": person, **self._progress(person)}
        if task is None:
            paused = is_paused(self.store, person)
            return self.site.page("done.html", paused=paused, full=self.store.full, **shared)
        shared |= {"task": task, "item": task.item, "guidelines": self._guidelines(task.item.objective)}
        if isinstance(task, Look):
            return self.site.page("look.html", **shared)
        if task.state == WRITING:
            return self.site.page("write.html", before=self.store.before(task), longest=LONGEST, **shared)
        left, right = task.answers if task.first == 0 else task.answers[::-1]
        return self.site.page(
            "item.html", left=left, right=right, choices=range(1, CHOICES + 1), longest=LONGEST, **shared
        )

    def _guidelines(self, objective: str) -> str:
        return self.store.batch.settings.guidelines.get(objective, "")

    def _progress(self, person: str) -> dict:
        count = "SELECT COUNT(*) FROM work WHERE person = ? AND state = ?"
        mine = self.store.db.execute(count, (person, ANSWERED)).fetchone()[0]
        done, needed = self.store.done()
        return {"mine": mine, "done": done, "needed": needed, "can_undo": self._last(person) is not None}

    def _open(self, person: str, form: Mapping[str, str], state: str = OPEN) -> Work:
        """The work that a form is about. Raises Refused where it is not before that person."""
        turn = form.get("turn", "")
        known = turn.isascii() and turn.isdigit() and len(turn) < 6
        work = self.store.work(form.get("item", ""), person, int(turn)) if known else None
        if work is None or work.state != state:
            raise Refused(GONE)
        return work

    async def answer(self, person: str, form: Mapping[str, str]) -> Response:
        work = self._open(person, form)
        answer = read_answer(work, form, time.time())
        turns = 1 if work.item.gold is not None else self.store.batch.settings.turns
        self._write("answered", work, **answer, ended=work.turn >= turns)
        return see_other()

    async def skip(self, person: str, form: Mapping[str, str]) -> Response:
        work = self._open(person, form, OPEN if form.get("state") != WRITING else WRITING)
        number = form.get("reason", "")
        if number not in [str(place) for place in range(1, len(REASONS) + 1)]:
            raise Refused("Choose why you skip it.")
        note = read_text(form, "note", NOTE, "The note", needed=number == str(len(REASONS)))
        reason = REASONS[int(number) - 1]
        self._write("skipped", work, reason=f"{reason}: {note}" if note else reason)
        return see_other()

    async def flag(self, person: str, form: Mapping[str, str]) -> Response:
        self._write("flagged", self._open(person, form), note=read_text(form, "note", NOTE, "The note"))
        return see_other()

    async def draft(self, person: str, form: Mapping[str, str]) -> Response:
        work = self._open(person, form, OPEN if "text" not in form else WRITING)
        draft = {name: form[name][:LONGEST] for name in DRAFTED if form.get(name)}
        self.store.draft(work.item.id, person, work.turn, draft)
        return PlainTextResponse("kept")

    async def undo(self, person: str, form: Mapping[str, str]) -> Response:
        last = self._last(person)
        if last is None:
            raise Refused("There is nothing to take back, or somebody has had a second look at it.")
        self._write("undone", last)
        return see_other()

    def _last(self, person: str) -> Work | None:
        """What somebody did last, while nobody has looked at it again."""
        here = "person = ? AND state IN (?, ?) AND first IS NOT NULL"  # rather than imported
        done = self.store.works(here, person, ANSWERED, SKIPPED, order="at DESC, turn DESC")
        if not done:
            return None
        looked = self.store.db.execute(
            "SELECT 1 FROM looks WHERE item = ? AND person = ?", (done[0].item.id, person)
        ).fetchone()
        return None if looked else done[0]

    async def write(self, person: str, form: Mapping[str, str]) -> Response:
        """Draws two answers to what somebody wrote; both are shown at once, when both are there."""
        work = self._open(person, form, WRITING)
        text = read_text(form, "text", LONGEST, "The message")
        self.store.draft(work.item.id, person, work.turn, {"text": text})
        prompt = [*self.store.before(work), {"role": "user", "content": text}]
        answers = await run_in_threadpool(self.site.live.draw, prompt, f"{work.item.id}/{person}/{work.turn}")
        self._open(person, form, WRITING)  # another window may have been faster
        self._write("drawn", work, prompt=prompt, answers=answers)
        self.store.open(work.item.id, person, work.turn, OPEN, work.first)  # from when both can be seen
        return see_other()

    async def end(self, person: str, form: Mapping[str, str]) -> Response:
        """The conversation ends with the turn before."""
        work = self._open(person, form, WRITING)
        if work.turn == 1:
            raise Refused("There is nothing to end yet; you may skip it.")
        self.store.write("ended", item=work.item.id, person=person, turn=work.turn - 1)
        return see_other()

    async def look(self, person: str, form: Mapping[str, str]) -> Response:
        """A second look at what somebody else answered."""
        stands = form.get("stands", "")
        task = next_task(self.store, person)
        if not isinstance(task, Look) or task.item.id != form.get("item"):
            raise Refused(GONE)
        if stands not in ("0", "1"):
            raise Refused("Say whether the answer stands.")
        note = read_text(form, "note", NOTE, "The note", needed=stands == "0")
        self.store.write("looked", item=task.item.id, person=task.person, by=person, stands=stands == "1", note=note)
        return see_other()

    def _write(self, kind: str, work: Work, **fields) -> None:
        self.store.write(kind, item=work.item.id, person=work.person, turn=work.turn, **fields)
