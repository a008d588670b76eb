"""The routes of managers: how the batch and everybody stand, pausing, links, closing, and what came out."""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import statistics
from .answers import Refused
from .app import Site, form_of, see_other
from .export import FORMS, rows_as_bytes
from .security import ANNOTATOR, MANAGER, NAME
from .store import SKIPPED


def routes(site: Site) -> list[Route]:
    """All of them; they want a manager's cookie."""
    office = Office(site)
    posts = ("pause", "invite", "close")
    return [
        Route("/manager", office.guarded(office.home)),
        Route("/manager/export/{form}", office.guarded(office.export)),
        *(Route(f"/manager/{name}", office.guarded(getattr(office, name)), methods=["POST"]) for name in posts),
    ]


class Office:
    """What a manager sees and does."""

    def __init__(self, site: Site):
        self.site, self.store = site, site.store

    def guarded(self, do):
        """A route for managers alone."""

        async def route(request: Request) -> Response:
            if self.site.who(request, MANAGER) is None:
                return self.site.page("error.html", 401, why="Come in by the manager's link, which the server printed.")
            return await do(request)

        return route

    async def home(self, request: Request) -> Response:
        store = self.store
        done, needed = store.done()
        base = str(request.base_url).rstrip("/")
        everybody = statistics.people(store)
        links = {one.name: base + self.site.signer.link(ANNOTATOR, one.name) for one in everybody}
        return self.site.page(
            "manager.html", done=done, needed=needed, settings=store.batch.settings, people=everybody, links=links,
            agreement=statistics.agreement(store), models=statistics.models(store), closed=store.closed,
            taken=store.taken, forms=FORMS, notes=self._notes(),
        )  # fmt: skip

    def _notes(self) -> list[tuple[str, str, str]]:
        """What people wrote for the manager: who, about what, and the text."""
        flags = [(work.person, "flag", work.flag) for work in self.store.works("flag IS NOT NULL", order="opened DESC")]
        skips = [(work.person, "skipped", work.reason) for work in self.store.works("state = ?", SKIPPED)]
        rows = self.store.db.execute("SELECT by, person, note FROM looks WHERE NOT stands").fetchall()
        return flags + [(row["by"], f"sent back to {row['person']}", row["note"]) for row in rows] + skips

    async def export(self, request: Request) -> Response:
        form = request.path_params["form"]
        if form not in FORMS:
            return self.site.page("error.html", 404, why=f"There is no form {form!r}.")
        headers = {"content-disposition": f'attachment; filename="{FORMS[form]}"'}
        return Response(rows_as_bytes(self.store, form), headers=headers, media_type="application/octet-stream")

    async def pause(self, request: Request) -> Response:
        form = await form_of(request)
        self.store.write("paused", person=_name(form), paused=form.get("paused") == "1")
        return see_other("/manager")

    async def invite(self, request: Request) -> Response:
        self.site.join(_name(await form_of(request)))
        return see_other("/manager")

    async def close(self, request: Request) -> Response:
        form = await form_of(request)
        self.store.write("closed", closed=form.get("closed") == "1")
        return see_other("/manager")


def _name(form: Mapping[str, str]) -> str:
    name = form.get("name", "").strip()
    if not NAME.fullmatch(name):
        raise Refused("A name has at most 40 letters (A to Z), digits, - and _.")
    return name
