"""`llama-align people`: serves a batch, says how it stands, imports and exports."""

import argparse
import ipaddress
import os
from pathlib import Path

from ..recipe import RecipeError
from ..runtime.output import say
from . import statistics
from .assign import looks_waiting
from .batch import FOLDER, SETTINGS, Batch, Settings, read_guidelines
from .export import rows_as_bytes
from .forms import from_argilla, from_potato
from .live import Live
from .log import Log
from .security import ANNOTATOR, LOCAL, MANAGER, Signer, check_name, read_key
from .store import Store


def main(options: argparse.Namespace) -> None:
    """Runs one of the actions."""
    {"serve": serve, "status": status, "export": export, "import": import_}[options.action](options)


def serve(options: argparse.Namespace) -> None:
    """Serves a batch until it is interrupted."""
    try:
        import uvicorn

        from .app import make_app
    except ImportError as error:
        raise ImportError(f"{error}; pip install 'llama_align[people]' has what serves pages") from error
    people = [check_name(name) for name in options.people]
    batch, folder = Batch.read(options.folder), Path(options.folder)
    signer = Signer(read_key(folder, options.token_file, options.host))
    hosts = _hosts(options.host, options.port, options.name)
    store = Store(folder, Log(folder))
    local = options.host in LOCAL and options.token_file is None
    app = make_app(store, signer, Live(batch.settings), hosts, local)
    base = options.link or f"http://{_authority(options.name[0] if options.name else options.host)}:{options.port}"
    done, needed = store.done()
    say(f"{folder}: {done} of {needed} done; Ctrl-C ends")
    if local:
        say(f"annotators on this machine: {base}/")
    say(f"manager: {base}{signer.link(MANAGER, 'manager')}")
    for name in people:
        say(f"{name}: {base}{signer.link(ANNOTATOR, name)}")
        if not store.db.execute("SELECT 1 FROM people WHERE name = ?", (name,)).fetchone():
            store.write("joined", person=name)
    try:
        # links are secrets, so no log of requests; no header that says what serves
        uvicorn.run(
            app, host=options.host, port=options.port, access_log=False, server_header=False, log_level="warning",
            proxy_headers=False, limit_concurrency=200, timeout_graceful_shutdown=5,
        )  # fmt: skip
    finally:
        store.close()


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _hosts(host: str, port: int, names: list[str]) -> frozenset[str]:
    """What a request may call the server.

    Raises:
        RecipeError: an address that stands for all, with no name.
    """
    called = {_authority(name) for name in LOCAL} if host in LOCAL else {_authority(host)}
    try:
        anywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        anywhere = False
    if anywhere:
        called = set()
        if not names:
            raise RecipeError(f"name: found none for host {host}, expected what annotators' browsers call this machine")
    named = {name.lower() for name in names}  # with no port, too, as browsers call a proxy
    return frozenset({f"{name}:{port}" for name in called | named} | named)


def status(options: argparse.Namespace) -> None:
    """Prints how a batch stands."""
    store = Store(Path(options.folder))
    done, needed = store.done()
    closed = ", closed by a manager" if store.closed else ""
    say(f"{done} of {needed} done{closed}; {looks_waiting(store)} second looks wait")
    for name, found in statistics.agreement(store).items():
        if found.alpha is not None:
            say(f"agreement on {name}: alpha {found.alpha:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]")
    for one in statistics.people(store):
        seconds = "" if one.seconds is None else f", {one.seconds:.0f} s each"
        gold = f", gold {one.gold.part} of {one.gold.of}" if one.gold.of else ""
        paused = " (paused)" if one.paused else ""
        say(f"{one.name}{paused}: {one.answered} answered, {one.skipped} skipped{seconds}{gold}")


def export(options: argparse.Namespace) -> None:
    """Writes what came out so far."""
    if os.path.exists(options.to):
        raise RecipeError(f"to: found {options.to}, expected a file that is not there yet")
    content = rows_as_bytes(Store(Path(options.folder)), options.form)
    Path(options.to).write_bytes(content)
    say(f"{options.to}: {len(content)} bytes")


def import_(options: argparse.Namespace) -> None:
    """Makes a batch of pairs that another tool has, with what was answered there."""
    folder, source = Path(options.folder), Path(options.source)
    if (folder / FOLDER / SETTINGS).is_file():
        raise RecipeError(f"{folder}: found a batch, expected a folder without one")
    items, events = from_argilla(source) if options.form == "argilla" else from_potato(source)
    if not items:
        raise RecipeError(f"{source}: found no pair of answers, expected some")
    for event in events:
        check_name(event["person"])
    settings = Settings(round=options.round, guidelines=read_guidelines({}))
    Batch(settings, {item.id: item for item in items}).write(folder)
    store = Store(folder, Log(folder))
    for event in events:
        store.write("answered", **event)
    store.close()
    say(f"{folder}: {len(items)} pairs, {len(events)} answered; llama-align people serve {folder}")
