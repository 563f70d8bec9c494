"""A store that speaks S3 with Object Lock on a real socket, and can lie, forget, cut and spoil as real ones have been seen to do.

Only what the archive uses (AWS S3 API reference); signatures are not checked. How locks really behave is Ceph's to show
(tests/rigs/object-lock-server): this one exists for the faults that a good server does not have.
"""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape


@dataclass
class Kept:
    """One version."""

    key: str
    version: str
    data: bytes
    headers: dict[str, str]
    made: datetime
    until: datetime | None = None
    held: bool = False
    marker: bool = False


@dataclass
class S3Store:
    """`requests`: (method, path and query) of all that came; `body_bytes`: of PUTs, cut ones too. The rest are the faults it has."""

    versioned: bool = True
    drops_locks: bool = False           # Ceph 16 does, on multipart uploads
    forgets_retention: bool = False     # answers 200 and does nothing
    lenient: bool = False               # shortens and deletes what is locked (moto does the one, RustFS did the other)
    cut_after: list[int] = field(default_factory=list)      # the next PUTs lose the line after so many bytes of their body
    cut_reads: list[int] = field(default_factory=list)      # the next films given lose the line after so many bytes
    answers: tuple[int, str] | None = None                  # (status, code) to everything
    spoils: str = ""                    # keys that hold this give back other bytes
    loses: str = ""                     # keys that hold this are gone, though listed
    keeps_framing: bool = False         # stores a few bytes more than it was given (boto3 issue 4435)
    requests: list[tuple[str, str]] = field(default_factory=list)
    body_bytes: int = 0
    kept: list[Kept] = field(default_factory=list)

    def __post_init__(self) -> None:
        store = self

        class Handler(_Handler):
            books = store

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def of(self, part: str) -> list[Kept]:
        return [k for k in self.kept if part in k.key]

    def names(self) -> list[str]:
        return sorted({k.key for k in self.kept if not k.key.startswith("v1/probe/")})


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    """One request. A cut closes the socket in the middle of the body, with a reset."""

    books: S3Store
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _begin(self) -> tuple[str, dict[str, str]] | None:
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        self.books.requests.append((self.command, self.path))
        if self.books.answers is not None:
            self._drain()
            self._error(*self.books.answers)
            return None
        return unquote(url.path.lstrip("/").partition("/")[2]), query

    def _drain(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode(), Content_Type="application/xml")

    def _find(self, key: str, query: dict[str, str]) -> Kept | None:
        mine = [k for k in self.books.kept if k.key == key and (query.get("versionId") in (None, k.version))]
        return mine[-1] if mine and not mine[-1].marker and not (self.books.loses and self.books.loses in key) else None

    def do_PUT(self) -> None:
        begun = self._begin()
        if begun is None:
            return
        key, query = begun
        if not key or "retention" in query or "legal-hold" in query:
            self._change(self._find(key, query), query, self._drain())
            return
        length = int(self.headers["Content-Length"])
        if self.books.cut_after:
            some = self.rfile.read(min(length, self.books.cut_after.pop(0)))
            self.books.body_bytes += len(some)
            self.connection.close()
            self.close_connection = True
            return
        data = self.rfile.read(length)
        self.books.body_bytes += len(data)
        if len(data) < length:                  # the client broke off
            self.close_connection = True
            return
        locked = self.headers.get("x-amz-object-lock-mode") == "COMPLIANCE" and not self.books.drops_locks
        until = _time(self.headers["x-amz-object-lock-retain-until-date"]) if locked else None
        kept = Kept(key, uuid.uuid4().hex, data + (b"0\r\n\r\n" if self.books.keeps_framing else b""),
                    {k: v for k, v in self.headers.items() if k.lower().startswith("x-amz-meta-")}, datetime.now(UTC), until)
        self.books.kept.append(kept)
        named = {"x_amz_version_id": kept.version} if self.books.versioned else {}
        self._answer(200, b"", ETag='"0"', **named)

    def _change(self, kept: Kept | None, query: dict[str, str], body: bytes) -> None:
        if not query:
            self._answer(200)                   # a new bucket
        elif kept is None:
            self._error(404, "NoSuchKey")
        elif "legal-hold" in query:
            kept.held = b"<Status>ON" in body
            self._answer(200)
        else:
            text = next(e.text for e in ElementTree.fromstring(body) if e.tag.endswith("RetainUntilDate"))  # noqa: S314 (our own client's)
            until = _time(text or "")
            if kept.until and until < kept.until and not self.books.lenient:
                self._error(403, "AccessDenied")
                return
            if not self.books.forgets_retention:
                kept.until = until
            self._answer(200)

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        begun = self._begin()
        if begun is None:
            return
        key, query = begun
        if "versions" in query:
            self._list(query.get("prefix", ""))
        elif "object-lock" in query:
            self._answer(200, b"<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>"
                              b"<Mode>COMPLIANCE</Mode><Days>1096</Days></DefaultRetention></Rule></ObjectLockConfiguration>")
        elif (kept := self._find(key, query)) is None:
            self._error(404, "NoSuchKey")
        else:
            self._give(kept)

    def _give(self, kept: Kept) -> None:
        data = kept.data
        if self.books.spoils and self.books.spoils in kept.key:
            data = bytes([data[0] ^ 1]) + data[1:]
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers.get("Range") else 0
        lock = {"x_amz_object_lock_mode": "COMPLIANCE",
                "x_amz_object_lock_retain_until_date": kept.until.isoformat()} if kept.until else {}
        if self.books.cut_reads and kept.key.endswith(".mp4") and self.command == "GET":
            whole, data = len(data), data[:start + self.books.cut_reads.pop(0)]
            self._answer(206 if start else 200, data[start:], Content_Length=str(whole - start), x_amz_version_id=kept.version)
            self.close_connection = True
            return
        held = {"x_amz_object_lock_legal_hold": "ON" if kept.held else "OFF"}
        self._answer(206 if start else 200, data[start:], Content_Length=str(len(data) - start), ETag='"0"',
                     Last_Modified=format_datetime(kept.made, usegmt=True), x_amz_version_id=kept.version, **lock, **held, **kept.headers)

    def _list(self, prefix: str) -> None:
        rows = []
        for kept in self.books.kept:
            if kept.key.startswith(prefix):
                tag = "DeleteMarker" if kept.marker else "Version"
                size = "" if kept.marker else f"<Size>{len(kept.data)}</Size>"
                rows.append(f"<{tag}><Key>{escape(kept.key)}</Key><VersionId>{kept.version}</VersionId><IsLatest>true</IsLatest>"
                            f"<LastModified>{kept.made.isoformat()}</LastModified>{size}</{tag}>")
        self._answer(200, f"<ListVersionsResult><IsTruncated>false</IsTruncated>{''.join(rows)}</ListVersionsResult>".encode())

    def do_DELETE(self) -> None:
        begun = self._begin()
        if begun is None:
            return
        key, query = begun
        kept = self._find(key, query)
        if "versionId" not in query:
            self.books.kept.append(Kept(key, uuid.uuid4().hex, b"", {}, datetime.now(UTC), marker=True))
            self._answer(204)
        elif kept is not None and ((kept.until and kept.until > datetime.now(UTC)) or kept.held) and not self.books.lenient:
            self._error(403, "AccessDenied")
        else:
            self.books.kept = [k for k in self.books.kept if k is not kept]
            self._answer(204)
