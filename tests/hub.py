"""A small server that speaks the hub's API: listing with digests, resolve with ranges; it can cut, lie and refuse."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 4096  # bytes; as large files are listed with their sha256, smaller ones with git's digest


@dataclass
class Hub:
    """`with Hub({repo: {path: bytes}}) as hub:` and `hub.url`; `requests` has every (method, path, Range)."""

    repositories: dict[str, dict[str, bytes]]
    cut: dict[str, int] = field(default_factory=dict)  # path -> so many answers end in the middle
    dies: bool = False  # after a cut the server is `down` for that file: 503
    down: set[str] = field(default_factory=set)
    lies: dict[str, bytes] = field(default_factory=dict)  # path -> what comes instead
    sizes: dict[str, int] = field(default_factory=dict)  # path -> the size that the listing tells
    gated: bool = False
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append((request.command, path, request.headers.get("Range")))
        if self.gated:
            return self.send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"}, body=body)
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/").split("/revision/")[0]
            if repo not in self.repositories:
                return self.send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
            listing = json.dumps(self.listing(repo)).encode()
            return self.send(request, 200, listing, {"Content-Type": "application/json"}, body=body)
        repo, _, rest = path.removeprefix("/").partition("/resolve/")
        name = rest.partition("/")[2]
        if name not in self.repositories.get(repo, {}):
            return self.send(request, 404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
        return self.file(request, repo, name, body=body)

    def listing(self, repo: str) -> dict[str, Any]:
        siblings = []
        for name, data in self.repositories[repo].items():
            blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
            sibling: dict[str, Any] = {"rfilename": name, "size": self.sizes.get(name, len(data)), "blobId": blob}
            if len(data) >= LARGE:
                sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "apache-2.0"}}

    def file(self, request: BaseHTTPRequestHandler, repo: str, name: str, *, body: bool) -> None:
        if name in self.down:
            return self.send(request, 503, b"", {}, body=body)
        data = self.lies.get(name, self.repositories[repo][name])
        begin = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }  # fmt: skip
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        part = data[begin:]
        if self.cut.get(name, 0) > 0:
            self.cut[name] -= 1
            self.send(request, 206 if begin else 200, part, headers, body=body, sent=len(part) // 2)
            request.close_connection = True
            if self.dies:
                self.down.add(name)
            return
        self.send(request, 206 if begin else 200, part, headers, body=body)

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        headers: dict[str, str],
        *,
        body: bool,
        sent: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        if body:
            request.wfile.write(data[:sent])
            request.wfile.flush()
