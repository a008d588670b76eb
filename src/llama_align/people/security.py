"""Who may do what: signed links and cookies, and a guard before every route.

Knows ASGI, and nothing of what is asked or answered.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from ..recipe import RecipeError
from .batch import FOLDER

KEY = ".key"
NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
ANNOTATOR, MANAGER = "annotator", "manager"
LOCAL = ("127.0.0.1", "localhost", "::1")
SHORTEST = 16  # characters of a token
LARGEST = 256 * 1024  # bytes of a request's body
RATE, BURST = 10.0, 100.0  # requests a second in the long run, and at once
CLIENTS = 10_000  # whose rates are remembered
HEADERS = {
    # the page itself: nothing inline, nothing from elsewhere, in nobody's frame
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",  # with no-referrer browsers send no Origin
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
    b"cache-control": b"no-store",
}


def read_key(folder: Path, token_file: str | None, host: str) -> bytes:
    """What links and cookies are signed with: a user's token, or on this machine alone one made for the batch.

    Raises:
        RecipeError: no token for others to come in with, or one that could be guessed.
    """
    if token_file is not None:
        token = Path(token_file).read_text("utf-8").strip()
        if len(token) < SHORTEST:
            raise RecipeError(f"token-file: found {len(token)} characters, expected at least {SHORTEST}")
        return hashlib.sha256(f"{Path(folder).resolve()}/{token}".encode()).digest()
    if host not in LOCAL:
        raise RecipeError(
            f"host: found {host} without a token, expected --token-file; without one only this machine is served "
            f"({', '.join(LOCAL)})"
        )
    path = Path(folder) / FOLDER / KEY
    if not path.is_file():
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w") as out:
            out.write(secrets.token_hex(32))
    return bytes.fromhex(path.read_text().strip())


class Signer:
    """Signs who somebody is, for a link or a cookie; neither can be made of the other or for another name."""

    def __init__(self, key: bytes):
        self._key = key

    def sign(self, use: str, role: str, name: str) -> str:
        """A signature for a URL or a cookie."""
        digest = hmac.new(self._key, f"{use}/{role}/{name}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:24]).decode()

    def fits(self, signature: str, use: str, role: str, name: str) -> bool:
        """Whether a signature is that of this name."""
        return hmac.compare_digest(signature.encode(), self.sign(use, role, name).encode())

    def link(self, role: str, name: str) -> str:
        """The path of a personal link."""
        return f"/enter/{role}/{name}/{self.sign('link', role, name)}"

    def cookie(self, role: str, name: str) -> str:
        """The value of the cookie named after a role."""
        return f"{name}.{self.sign('cookie', role, name)}"

    def who(self, role: str, value: str | None) -> str | None:
        """Whose cookie this is; None where it is nobody's."""
        name, _, signature = (value or "").partition(".")
        return name if NAME.fullmatch(name) and self.fits(signature, "cookie", role, name) else None


def check_name(name: str) -> str:
    """A person's name. Raises RecipeError for one that a link or a record could not have."""
    if not NAME.fullmatch(name):
        raise RecipeError(f"name: found {name[:60]!r}, expected at most 40 letters (A to Z), digits, - and _")
    return name


class Guard:
    """Refuses what no page of ours sends, before any route: another Host, a foreign Origin, too much, too often.

    Args:
        hosts: what a request may call this server, with its port. signer: tells clients apart by their cookies.
    """

    def __init__(self, app, hosts: frozenset[str], signer: Signer, clock: Callable[[], float] = time.monotonic):
        self._app, self._hosts, self._signer, self._clock = app, hosts, signer, clock
        self._rates: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # no page of ours opens a socket
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status, why = self._refusal(scope, headers) or (0, "")
        body = b""
        if not status and scope["method"] not in ("GET", "HEAD"):
            body = await _body(receive)
            if len(body) > LARGEST:
                status, why = 413, f"found more than {LARGEST} bytes"
        if status:
            return await _refuse(_with_headers(send), status, why)
        return await self._app(scope, _replay(body, receive), _with_headers(send))

    def _refusal(self, scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return 421, f"this server is not called {host[:60]!r}"  # a name somebody else made point here, perhaps
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get("origin", "").lower() not in (f"http://{host}", f"https://{host}"):
                return 403, "the request comes from another page"
            if int(headers.get("content-length") or 0) > LARGEST:
                return 413, f"found more than {LARGEST} bytes"
        if not self._in_time(self._client(scope, headers)):
            return 429, "too many requests; wait a moment"
        return None

    def _client(self, scope, headers: dict[str, str]) -> str:
        cookies = cookies_of(headers.get("cookie", ""))
        for role in (ANNOTATOR, MANAGER):
            if name := self._signer.who(role, cookies.get(role)):
                return f"{role}/{name}"
        return (scope.get("client") or ("?",))[0]

    def _in_time(self, client: str) -> bool:
        """A bucket that fills at `RATE` and holds `BURST`."""
        now = self._clock()
        left, last = self._rates.pop(client, (BURST, now))
        left = min(BURST, left + (now - last) * RATE)
        while len(self._rates) >= CLIENTS:
            del self._rates[next(iter(self._rates))]
        self._rates[client] = (max(0.0, left - 1), now)
        return left >= 1


def cookies_of(header: str) -> dict[str, str]:
    """Cookies by name; none of what is no header of cookies."""
    try:
        return {name: one.value for name, one in SimpleCookie(header).items()}
    except CookieError:
        return {}


async def _body(receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= LARGEST:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return body


def _replay(body: bytes, receive):
    told = False

    async def again():
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send):
    async def sent(message) -> None:
        if message["type"] == "http.response.start":
            ours = [*HEADERS.items()]
            message["headers"] = [pair for pair in message["headers"] if pair[0].lower() not in HEADERS] + ours
        await send(message)

    return sent


async def _refuse(send, status: int, why: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{why}\n".encode()})
