"""A Hub on loopback: as much of its HTTP as huggingface_hub asks for, all in memory.

with serve() as hub:  # hub.url is what HF_ENDPOINT has to be
    ...
    hub.repos["me/name"].files("round-1")
"""

import base64
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LFS = (".safetensors", ".bin")
KINDS = {"models": "model", "datasets": "dataset"}


@dataclass
class Repo:
    """A repository: its commits (title, files by path), and which of them branches and tags are at."""

    kind: str
    private: bool
    gated: str | bool = False
    commits: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=lambda: {"0" * 40: ("initial", {})})
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> str | None:
        found = self.branches.get(revision) or self.tags.get(revision) or revision
        return found if found in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.at(revision)][1]


@dataclass
class Hub:
    """All that was sent. refuse: how many commits are taken before one is refused; None: all are."""

    url: str = ""
    role: str = "write"
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    refuse: int | None = None

    def answer(self, method: str, path: str, query: dict, body: bytes) -> tuple:
        """Status, body (bytes or JSON) and headers."""
        self.log.append(f"{method} {path}")
        for pattern, route in ROUTES:
            if found := re.fullmatch(pattern, path):
                return route(self, method, query, body, *map(urllib.parse.unquote, found.groups()))
        return 404, {"error": f"no route {path}"}, {}

    def whoami(self, *_):
        return 200, {"name": "me", "type": "user", "orgs": [], "auth": {"accessToken": {"role": self.role}}}, {}

    def create(self, method, query, body):
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.repos:
            return 409, {"error": "exists", "url": f"{self.url}/{name}"}, {}
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.repos[name] = Repo(asked.get("type") or "model", private)
        return 200, {"url": f"{self.url}/{name}", "id": name}, {}

    def blob(self, method, query, body, oid):
        if method == "PUT":
            self.blobs[oid] = body
            return 200, b"", {}
        return 200, self.blobs[oid], {}

    def batch(self, method, query, body, repo):
        """What is there already needs no upload."""
        rows = [{"oid": o["oid"], "size": o["size"]} for o in json.loads(body)["objects"]]
        for row in rows:
            if row["oid"] not in self.blobs:
                row["actions"] = {"upload": {"href": f"{self.url}/lfs/{row['oid']}"}}
        return 200, {"transfer": "basic", "objects": rows}, {}

    def api(self, method, query, body, kind, name, action, rest):
        repo = self.repos.get(name)
        if not repo or repo.kind != KINDS[kind]:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        if action in ("branch", "tag"):
            table = repo.branches if action == "branch" else repo.tags
            if method == "DELETE":
                del table[rest]
                return 200, b"", {}
            asked = json.loads(body or b"{}")
            start = rest if action == "tag" else asked.get("startingPoint", "main")
            label = asked["tag"] if action == "tag" else rest
            if label in table:
                return 409, {"error": "Reference already exists"}, {}
            table[label] = repo.at(start)
            return 200, b"", {}
        if action == "settings":
            repo.gated = json.loads(body).get("gated", repo.gated)
            return 200, {}, {}
        if action == "refs":
            rows = {
                what: [{"name": n, "ref": f"refs/{what}/{n}", "targetCommit": c} for n, c in table.items()]
                for what, table in (("branches", repo.branches), ("tags", repo.tags))
            }
            return 200, rows | {"converts": []}, {}
        if action == "preupload":
            there = {path: _entry(path, data) for path, data in repo.files(rest).items()}
            rows = []
            for path in (row["path"] for row in json.loads(body)["files"]):
                row = {"path": path, "uploadMode": "lfs" if path.endswith(LFS) else "regular", "shouldIgnore": False}
                found = there.get(path, {})
                rows.append(row | {"oid": found.get("lfs", found).get("oid")})
            return 200, {"files": rows}, {}
        revision, _, below = rest.partition("/")
        commit = repo.at(revision or "main")
        if commit is None:
            return 404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"}
        if action == "commits":
            row = {"id": commit, "title": repo.commits[commit][0], "message": "", "authors": []}
            return 200, [row | {"date": "2026-01-01T00:00:00.000Z"}], {}
        if action == "commit":
            return self.commit(repo, name, revision, body)
        files = repo.commits[commit][1]
        if action == "paths-info":
            asked = json.loads(body)["paths"] if body[:1] == b"{" else urllib.parse.parse_qs(body.decode())["paths"]
            return 200, [_entry(path, files[path]) for path in asked if path in files], {}
        entries = [_entry(path, data) for path, data in files.items() if path.startswith(below)]
        if action == "tree":
            return 200, entries, {}
        about = {"id": name, "sha": commit, "private": repo.private, "gated": repo.gated, "tags": []}
        return 200, about | {"siblings": [{"rfilename": entry["path"]} for entry in entries]}, {}

    def commit(self, repo, name, revision, body):
        if self.refuse is not None:
            self.refuse -= 1
            if self.refuse < 0:
                return 400, {"error": "broken off"}, {}
        head, *rows = [json.loads(line) for line in body.splitlines()]
        files = dict(repo.files(revision))
        for row in rows:
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            else:
                files.pop(value["path"])
        oid = hashlib.sha1(f"{head}{len(repo.commits)}".encode()).hexdigest()
        repo.commits[oid] = head["value"]["summary"], files
        repo.branches[revision] = oid
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"}, {}

    def resolve(self, method, query, body, name, revision, path):
        repo = self.repos.get(name)
        commit = repo and repo.at(revision)
        if commit is None:
            return 404, b"", {"X-Error-Code": "RevisionNotFound" if repo else "RepoNotFound"}
        data = repo.commits[commit][1].get(path)
        if data is None:
            return 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
        return 200, data, {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}


def _entry(path: str, data: bytes) -> dict:
    oid = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    lfs = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}}
    return {"type": "file", "path": path, "size": len(data), "oid": oid} | (lfs if path.endswith(LFS) else {})


NAME = "([^/]+/[^/]+)"
ROUTES = [
    ("/api/whoami-v2", Hub.whoami),
    ("/api/validate-yaml", lambda *_: (200, {"errors": [], "warnings": []}, {})),
    ("/api/repos/create", Hub.create),
    ("/lfs/(.+)", Hub.blob),
    (f"/(?:datasets/)?{NAME}\\.git/info/lfs/objects/batch", Hub.batch),
    (f"/api/(models|datasets)/{NAME}/(\\w[\\w-]*)/?(.*)", Hub.api),
    (f"/api/(models|datasets)/{NAME}()()", Hub.api),
    (f"/(?:datasets/)?{NAME}/resolve/([^/]+)/(.+)", Hub.resolve),
]


@contextmanager
def serve() -> Iterator[Hub]:
    """A Hub on a port of its own."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do(self):
            path, _, query = self.path.partition("?")
            status, data, headers = hub.answer(self.command, path, urllib.parse.parse_qs(query), self.content())
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(data))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def content(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
