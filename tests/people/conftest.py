"""Batches, a client that speaks to the application without a network, and a server that can be killed."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path

import pytest

from llama_align.people.batch import Batch, Candidate, Item, Settings, read_guidelines
from llama_align.people.log import Log
from llama_align.people.security import ANNOTATOR, MANAGER, Signer
from llama_align.people.store import Store

HOST = "127.0.0.1:8765"


def item(name: str, objective: str = "helpfulness", texts=("The first.", "The second one."), **more) -> Item:
    pair = tuple(Candidate(text, True, f"model-{place}", 0.5 + place / 2) for place, text in enumerate(texts))
    prompt = [{"role": "user", "content": f"Question {name}?"}]
    return Item(name, objective, **{"prompt": prompt, "answers": pair, "source": "test"} | more)


def make_batch(folder: Path, items=None, **settings) -> Path:
    items = [item(f"i{n}") for n in range(4)] if items is None else items
    settings = {"round": 3, "guidelines": read_guidelines({})} | settings
    Batch(Settings(**settings), {one.id: one for one in items}).write(folder)
    return folder


@pytest.fixture
def opened():
    """Opens a batch to write, as a server does."""
    stores = []

    def call(folder: Path) -> Store:
        stores.append(Store(folder, Log(folder)))
        return stores[-1]

    yield call
    for store in stores:
        store.close()


class Canned:
    """Draws what it was told to, in order."""

    def __init__(self, *pairs):
        self.pairs, self.asked = list(pairs), []

    def draw(self, prompt, key):
        self.asked.append(prompt)
        texts = self.pairs.pop(0) if self.pairs else (f"left of {len(prompt)}", f"right of {len(prompt)}")
        return [
            {"answer": text, "finished": True, "model": f"m{n}", "temperature": 1.0} for n, text in enumerate(texts)
        ]


@dataclass
class Reply:
    status: int
    headers: list[tuple[str, str]]
    text: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class Client:
    """A browser with cookies, so far as the server can tell."""

    app: object
    cookies: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, path: str, form: dict | None = None, body: bytes | None = None, **headers) -> Reply:
        content = urllib.parse.urlencode(form or {}).encode() if body is None else body
        sent = {"host": HOST, "content-type": "application/x-www-form-urlencoded"}
        sent |= {"origin": f"http://{HOST}"} if method == "POST" else {}
        sent |= {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        status, got, text = asyncio.run(_ask(self.app, method, path, sent, content))
        for value in (value for name, value in got if name == "set-cookie"):
            self.cookies |= {name: one.value for name, one in SimpleCookie(value).items()}
        return Reply(status, got, text)

    def get(self, path: str, **headers) -> Reply:
        return self("GET", path, **headers)

    def post(self, path: str, form: dict | None = None, **headers) -> Reply:
        return self("POST", path, form, **headers)


async def _ask(app, method: str, path: str, headers: dict[str, str], body: bytes):
    got: dict = {"body": b""}

    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive():
        return next(messages, {"type": "http.disconnect"})

    async def send(message):
        if message["type"] == "http.response.start":
            got.update(message)
        else:
            got["body"] += message.get("body", b"")

    pairs = [(name.encode(), value.encode()) for name, value in headers.items() if value is not None]
    path, _, query = path.partition("?")
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": ""}
    await app(scope | {"headers": pairs, "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8765)}, receive, send)
    return got["status"], [(a.decode(), b.decode()) for a, b in got["headers"]], got["body"].decode()


@dataclass
class Site:
    store: Store
    app: object
    signer: Signer
    live: Canned

    def person(self, name: str) -> Client:
        client = Client(self.app, {ANNOTATOR: self.signer.cookie(ANNOTATOR, name)})
        client.get("/")
        return client

    def manager(self) -> Client:
        return Client(self.app, {MANAGER: self.signer.cookie(MANAGER, "manager")})


@pytest.fixture
def site(opened):
    """The application over a batch."""

    def call(folder: Path, *pairs, local: bool = True) -> Site:
        pytest.importorskip("starlette", reason="the extra people is not installed")
        from llama_align.people.app import make_app

        store, signer, live = opened(folder), Signer(b"k" * 32), Canned(*pairs)
        return Site(store, make_app(store, signer, live, [HOST], local), signer, live)

    return call


def fields(page: str) -> dict[str, str]:
    """The hidden fields of the page's work."""
    form = page[page.index('<form id="work"') :]
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form[: form.index("</form>")])
    return dict(found)


def answer(client: Client, choice: int = 1, **more) -> Reply:
    """Answers what is before somebody."""
    form = fields(client.get("/").text) | {"choice": str(choice), "seconds": "5"} | more
    return client.post("/answer", form)


class Server:
    """A server of its own process, killed without warning when asked."""

    def __init__(self, folder: Path, port: int, *more: str, started: bool = True):
        self.folder, self.port, self.more = folder, port, more
        self.start()
        if started:
            self.wait()

    def start(self) -> None:
        command = [sys.executable, "-m", "llama_align", "people", "serve", str(self.folder), "--port", str(self.port)]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen([*command, *self.more], stdout=subprocess.PIPE, text=True, env=environment)

    def wait(self, seconds: float = 120) -> None:
        """Until it answers."""
        self.lines = [self.process.stdout.readline().strip() for _ in range(3 + self._links)]
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/static/icon.svg").read()
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError(f"no server: {self.lines}")

    @property
    def _links(self) -> int:
        return len(self.more) - 1 if "--people" in self.more else 0

    def link(self, name: str) -> str:
        return next(line.partition(": ")[2] for line in self.lines if line.startswith(f"{name}: "))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def events_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "people" / "log.jsonl").read_text().splitlines()]
