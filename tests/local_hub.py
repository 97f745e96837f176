"""A model hub on 127.0.0.1: enough of the Hugging Face hub's interface to download from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

from adatp_cli.model.checkpoints import Checkpoint, RelevanceFiles, find, find_relevance
from adatp_cli.model.hub import fetch
from adatp_cli.model.layout import check_layout

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def locate(name: str, said: Callable[[str], None]) -> Checkpoint:
    """Find a model's files and fetch what is missing, as loading does; `said` hears of it."""
    found = find(name, offline=False)
    fetch([found.missing], said)
    check_layout(found.folder)
    return found


def locate_encoder(name: str, said: Callable[[str], None]) -> RelevanceFiles:
    """The same for a relevance encoder."""
    found = find_relevance(name, offline=False)
    fetch([found.missing], said)
    return found


def talk_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have huggingface_hub talk to the hub at this address, as HF_ENDPOINT does at its import."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class LocalHub(ThreadingHTTPServer):
    """Serves the repositories that stand under `root` as `owner/name` folders.

    Attributes
    ----------
    requests
        (method, path, Range header or None, bytes of the answer's body), in order of arrival.
    ranges
        Whether byte ranges are honoured.
    break_after
        Bytes after which an answer's body is cut, once; None for never.
    refusal
        Status and error code of every answer, where it is not to be given.
    page
        What is answered to everything, as a network's sign-in page does.
    silent
        Whether requests get no answer at all.
    stall_after
        Bytes after which an answer's body stands still; None for never.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.requests: list[tuple[str, str, str | None, int]] = []
        self.ranges = True
        self.break_after: int | None = None
        self.refusal: tuple[int, str] | None = None
        self.page: bytes | None = None
        self.silent = False
        self.stall_after: int | None = None
        self.closing = Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serve(root: Path) -> Iterator[LocalHub]:
    with LocalHub(root) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.server.silent:
            self.server.closing.wait()
        elif self.server.page is not None:
            self._send(200, self.server.page, {"Content-Type": "text/html"}, body=body)
        elif self.server.refusal is not None:
            status, code = self.server.refusal
            self._send(status, b"{}", {"X-Error-Code": code} if code else {}, body=body)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+)?", path):
            self._describe(match[1], tree=match[2] == "tree")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._file(match[1], match[2], body=body)
        else:
            self._refuse("RepoNotFound")

    def _describe(self, repo: str, *, tree: bool) -> None:
        folder = self.server.root / repo
        if not folder.is_dir():
            self._refuse("RepoNotFound")
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        described = [
            {
                "type": "file",
                "path": str(path.relative_to(folder)),
                "rfilename": str(path.relative_to(folder)),
                "size": path.stat().st_size,
                "oid": _etag(path),
                "blobId": _etag(path),
                **({"lfs": _lfs(path)} if path.suffix == ".safetensors" else {}),
            }
            for path in files
        ]
        content: object = described if tree else {
            "_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "siblings": described,
            "private": False, "tags": [], "downloads": 0, "likes": 0,
        }  # fmt: skip
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, name: str, *, body: bool) -> None:
        path = self.server.root / repo / name
        if not path.is_file():
            self._refuse("EntryNotFound" if path.parent.is_dir() else "RepoNotFound")
            return
        data, status = path.read_bytes(), 200
        headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and self.server.ranges:
            start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            data, status = data[start:end], 206
        self._send(status, data, headers, body=body)

    def _refuse(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code})

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], *, body: bool = True
    ) -> None:
        cut = self.server.break_after
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if cut is not None and status == 206 and len(data) > cut:
            self.server.break_after = None
            data = data[:cut]
            self.close_connection = True
        sent = len(data) if body and self.command == "GET" else 0
        self.server.requests.append((self.command, self.path, self.headers.get("Range"), sent))
        if not sent:
            return
        stall = self.server.stall_after
        if stall is not None and sent > stall:
            self.wfile.write(data[:stall])
            self.server.closing.wait()
            self.close_connection = True
            return
        self.wfile.write(data)


def _etag(path: Path) -> str:
    """As the hub's: the SHA-256 of a large file, Git's name of a small one."""
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        return hashlib.sha256(data).hexdigest()
    head = b"blob %d\0" % len(data)
    return hashlib.sha1(head + data, usedforsecurity=False).hexdigest()


def _lfs(path: Path) -> dict[str, object]:
    return {
        "sha256": _etag(path),
        "oid": _etag(path),
        "size": path.stat().st_size,
        "pointerSize": 1,
    }
