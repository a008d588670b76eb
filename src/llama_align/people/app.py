"""The web application: who comes in, errors, and the routes of annotators and managers put together.

Everything but drawing answers runs on the one thread of the server, so that what two people do at once happens in turn.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..chat import Message, as_text
from ..data import GRADES
from .answers import NOTE, Refused
from .prose import markdown
from .security import ANNOTATOR, MANAGER, NAME, Guard, Signer
from .store import Store

HERE = Path(__file__).parent
YEAR = 365 * 24 * 3600
REASONS = (
    "I do not understand the prompt",
    "I lack the knowledge to judge",
    "The prompt or an answer is broken",
    "I do not want to read this",
    "Another reason",
)


class Draws(Protocol):
    """Draws two answers to a prompt; see `live.Live`."""

    def draw(self, prompt: list[Message], key: str) -> list[dict[str, Any]]: ...


class Site:
    """What all routes share.

    Args:
        local: only this machine is served, and who is on it may come in by a name of their own.
    """

    def __init__(self, store: Store, signer: Signer, live: Draws, local: bool):
        self.store, self.signer, self.live, self.local = store, signer, live, local
        self._pages = Environment(
            loader=PackageLoader("llama_align.people"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._pages.filters |= {"markdown": markdown, "said": as_text}
        self._pages.globals |= {"grades": GRADES, "reasons": REASONS, "note_most": NOTE}

    def page(self, template: str, /, status: int = 200, **values: Any) -> HTMLResponse:
        """A page made of a template."""
        return HTMLResponse(self._pages.get_template(template).render(**values), status)

    def who(self, request: Request, role: str) -> str | None:
        """Who sent a request, by the cookie of a role."""
        return self.signer.who(role, request.cookies.get(role))

    def come_in(self, role: str, name: str, request: Request) -> Response:
        """Sets the cookie of a role. A page goes on from here, since a redirect would still be the other site's."""
        if role == ANNOTATOR:
            self.join(name)
        response = self.page("enter.html", to="/" if role == ANNOTATOR else "/manager", name=name)
        response.set_cookie(
            role, self.signer.cookie(role, name), max_age=YEAR, httponly=True, samesite="strict", path="/",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return response

    def join(self, name: str) -> None:
        """Makes somebody known, once."""
        if not self.store.db.execute("SELECT 1 FROM people WHERE name = ?", (name,)).fetchone():
            self.store.write("joined", person=name)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form. Raises Refused for what is none."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise Refused("This is no form of ours.")
    try:
        return dict(parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=40))
    except ValueError as error:
        raise Refused("This is no form of ours.") from error


def see_other(to: str = "/") -> RedirectResponse:
    """Sends a browser on, to ask anew."""
    return RedirectResponse(to, 303)


def make_app(store: Store, signer: Signer, live: Draws, hosts: Iterable[str], local: bool) -> Starlette:
    """The application.

    Args:
        store: opened to write. hosts: what a browser may call this server, with the port.
    """
    from . import annotators, managers

    site = Site(store, signer, live, local)

    async def enter(request: Request) -> Response:
        role, name, signature = (request.path_params[key] for key in ("role", "name", "signature"))
        fits = role in (ANNOTATOR, MANAGER) and NAME.fullmatch(name) and signer.fits(signature, "link", role, name)
        return (
            site.come_in(role, name, request) if fits else site.page("error.html", 403, why="This link is not valid.")
        )

    async def join(request: Request) -> Response:
        name = (await form_of(request)).get("name", "").strip()
        if not local:
            raise Refused("Ask for a personal link.")
        if not NAME.fullmatch(name):
            raise Refused("A name has at most 40 letters (A to Z), digits, - and _.")
        return site.come_in(ANNOTATOR, name, request)

    def refused(request: Request, error: Exception) -> Response:
        return site.page("error.html", 422, why=str(error))

    def unkept(request: Request, error: Exception) -> Response:
        return site.page("error.html", 507, why=f"Nothing was kept: {error}. Try again, or tell the manager.")

    routes = [
        Route("/enter/{role}/{name}/{signature}", enter),
        Route("/join", join, methods=["POST"]),
        *annotators.routes(site),
        *managers.routes(site),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    guard = Middleware(Guard, hosts=frozenset(hosts), signer=signer)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={Refused: refused, OSError: unkept})
