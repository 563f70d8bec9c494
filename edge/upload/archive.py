"""The archive tier: an S3-compatible store with Object Lock, where a session's files lie under a lock nobody can shorten.

One PUT per file and never a multipart upload (Ceph 16 silently drops the lock of those), the digest signed into the request, the lock
looked at after every upload. Blocking: callers give it a thread, or are a command. A store's fault is an `ArchiveError` with a word and
changes nothing here; nothing local is ever removed by this module. Callers: `archivist` (uploads), `retrieval` (`edge archive`).
Sources: Ceph RGW 16.2.15 as measured on tests/rigs/object-lock-server; AWS S3 API reference, PutObject and Object Lock.
"""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from botocore import exceptions as faults
from botocore.config import Config

from edge.clock import US, Clock

MAX_BYTES = 5 << 30
"""The largest body of one PUT (S3); a segment of a minute has some 15 MB."""
LOCK_YEARS = 12
"""No lock further away than this is ever asked for: COMPLIANCE cannot be undone, and audit records are locked for ten years."""
PROBE_LOCK_S = 60
CHUNK_BYTES = 1 << 16
_DOWN = (faults.EndpointConnectionError, faults.ConnectTimeoutError, faults.ReadTimeoutError, faults.ConnectionClosedError,
         faults.ProxyConnectionError, faults.ResponseStreamingError, faults.IncompleteReadError, faults.HTTPClientError)
_DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "Forbidden", "403")
_SKEWED = ("RequestTimeTooSkewed", "RequestExpired", "AuthorizationHeaderMalformed")


class ArchiveError(Exception):
    """What the store did not do, in plain words; nothing local was changed.

    `word`: unreachable, denied, clock, refused, missing, not-worm, not-locked, mismatch, too-long, too-large, resting, credentials.
    """

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket and how to get to it. `endpoint` None: Amazon's own. Keys None: as boto3 finds them (environment, ~/.aws)."""

    bucket: str
    endpoint: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    ca: Path | None = None
    region: str = "us-east-1"


def read_credentials(path: Path) -> tuple[str, str]:
    """(access key, secret key) of a file with these two lines. ArchiveError `credentials` if it has another form or cannot be read."""
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, ValueError) as error:
        raise ArchiveError("credentials", f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not plain text'})") from error
    if len(lines) != 2:
        raise ArchiveError("credentials", f"{path} must hold two lines, the access key and the secret key")
    return lines[0], lines[1]


class Throttle:
    """Paces bytes. `kbps()` is asked all the time, so a new cap takes effect in mid-file; 0: rest, which breaks off what is under way."""

    def __init__(self, kbps: Callable[[], int | None]) -> None:
        self._kbps, self._stop = kbps, threading.Event()
        self._due = time.monotonic()

    def stop(self) -> None:
        """Break off for good: the program ends."""
        self._stop.set()

    def resting(self) -> bool:
        return self._stop.is_set() or self._kbps() == 0

    def pace(self, count: int) -> None:
        """Return when `count` bytes more may go. ArchiveError `resting` if none may. Debts and savings reach one second back."""
        rate = self._kbps()
        if self._stop.is_set() or rate == 0:
            raise ArchiveError("resting", "the archive rests now (schedule, or a session is running); it goes on later by itself")
        if rate is None:
            return
        now = time.monotonic()
        self._due = max(self._due, now - 1) + count / (rate * 125)
        while (wait_s := self._due - time.monotonic()) > 0:
            if self._stop.wait(min(wait_s, 0.5)) or self._kbps() != rate:
                self._due = time.monotonic()
                return self.pace(0)         # another cap by now, or none, or rest


class _Paced:
    """A file as the HTTP client reads it. The signing pass reads it too, before sending: only what is sent is paced."""

    def __init__(self, file: BinaryIO, throttle: Throttle) -> None:
        self._file, self._throttle, self.sending = file, throttle, False

    def read(self, count: int = -1) -> bytes:
        if not self.sending:
            return self._file.read(count)
        data = self._file.read(min(count, CHUNK_BYTES) if count > 0 else CHUNK_BYTES)
        self._throttle.pace(len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self.sending = False                # to be signed or sent anew
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@dataclass(frozen=True, slots=True)
class Stored:
    """An object under lock, as the store itself says it. `retain_until_utc_us`: COMPLIANCE until then."""

    key: str
    version_id: str
    bytes: int
    retain_until_utc_us: int


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key as the store lists it. `marker`: a delete marker, which hides a key and removes nothing."""

    key: str
    version_id: str
    bytes: int
    utc_us: int
    marker: bool = False


class Archive:
    """One bucket. `synced`: whether the clock may be believed now (no lock is set by a wrong one)."""

    def __init__(self, place: Place, clock: Clock, synced: Callable[[], bool], throttle: Throttle | None = None) -> None:
        self.place, self._clock, self._synced = place, clock, synced
        self._throttle = throttle or Throttle(lambda: None)
        with _told(f"the store at {place.endpoint or 'Amazon'}"):
            self._client: Any = boto3.client(
                "s3", endpoint_url=place.endpoint, aws_access_key_id=place.access_key, aws_secret_access_key=place.secret_key,
                region_name=place.region, verify=str(place.ca) if place.ca else None, config=Config(
                    signature_version="s3v4", s3={"addressing_style": "path", "payload_signing_enabled": True},
                    # boto3's own trailers broke third-party stores, one of which kept the framing as content (boto3 issues 4392, 4435)
                    request_checksum_calculation="when_required", response_checksum_validation="when_required",
                    retries={"mode": "standard", "total_max_attempts": 3}, connect_timeout=10, read_timeout=60))
        self._client.meta.events.register("before-send.s3.PutObject", _now_sending)

    # ---- in ------------------------------------------------------------------------------------------------------------

    def put(self, key: str, source: BinaryIO, size: int, sha256: str, md5: bytes, until_utc_us: int) -> Stored:
        """Store `size` bytes of `source` (from its start) under a COMPLIANCE lock until `until_utc_us`, and look that it is so.

        `sha256` lower-case hex, `md5` 16 raw bytes, both of exactly these bytes: the store refuses others. ArchiveError otherwise.
        """
        until = self._lockable(until_utc_us)
        if size > MAX_BYTES:
            raise ArchiveError("too-large", f"{key} has {size} bytes; one upload takes at most {MAX_BYTES}")
        body = _Paced(source, self._throttle)
        body.seek(0)
        with _told(key):
            answer = self._client.put_object(
                Bucket=self.place.bucket, Key=key, Body=body, ContentLength=size, ContentMD5=base64.b64encode(md5).decode(),
                ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(), Metadata={"sha256": sha256},
                ContentType="video/mp4" if key.endswith(".mp4") else "application/octet-stream",
                ObjectLockMode="COMPLIANCE", ObjectLockRetainUntilDate=until)
        version = answer.get("VersionId")
        if not version or version == "null":
            raise ArchiveError("not-worm", f"the bucket {self.place.bucket} keeps no versions, so it can lock nothing")
        return self.locked(key, version, size, until_utc_us)

    def put_bytes(self, key: str, data: bytes, until_utc_us: int) -> Stored:
        """`put` of a document in memory."""
        import io
        return self.put(key, io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest(),
                        hashlib.md5(data, usedforsecurity=False).digest(), until_utc_us)

    def adopt(self, key: str, sha256: str, size: int, until_utc_us: int) -> Stored | None:
        """The newest version of `key` if it says to be these bytes (after a crash, say), put under lock if it is not; else None."""
        try:
            with _told(key):
                head = self._client.head_object(Bucket=self.place.bucket, Key=key)
        except ArchiveError as error:
            if error.word in ("missing", "denied"):     # a store that lets nobody list says 403 for what is not there
                return None
            raise
        if head.get("Metadata", {}).get("sha256") != sha256 or head["ContentLength"] != size or not head.get("VersionId"):
            return None
        return self.locked(key, head["VersionId"], size, until_utc_us)

    def locked(self, key: str, version: str, size: int, until_utc_us: int) -> Stored:
        """See to it that this version is under COMPLIANCE until then at least. `not-locked` if the store does not do it, however asked."""
        until = self._lockable(until_utc_us)
        seen = self._look(key, version, size)
        if seen.retain_until_utc_us < until_utc_us:
            with _told(key):
                self._client.put_object_retention(Bucket=self.place.bucket, Key=key, VersionId=version,
                                                  Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until})
            seen = self._look(key, version, size)
        if seen.retain_until_utc_us < until_utc_us:
            raise ArchiveError("not-locked", f"the store took {key} and does not lock it. The local file stays; the copy proves nothing.")
        return seen

    def _look(self, key: str, version: str, size: int) -> Stored:
        with _told(key):
            head = self._client.head_object(Bucket=self.place.bucket, Key=key, VersionId=version)
        if head["ContentLength"] != size:
            raise ArchiveError("mismatch", f"the store holds {head['ContentLength']} bytes of {key}, not {size}. The local file stays.")
        until = head.get("ObjectLockRetainUntilDate") if head.get("ObjectLockMode") == "COMPLIANCE" else None
        return Stored(key, version, size, _us(until) if until else 0)

    def hold(self, key: str, version: str, on: bool) -> None:
        """A legal hold on one version: it outlasts its date until it is taken off."""
        with _told(key):
            self._client.put_object_legal_hold(Bucket=self.place.bucket, Key=key, VersionId=version,
                                               LegalHold={"Status": "ON" if on else "OFF"})

    def _lockable(self, until_utc_us: int) -> datetime:
        now = self._clock.now().utc_us
        if not self._synced():
            raise ArchiveError("clock", "the clock is not disciplined: no lock is set by it, because none can be taken back")
        if until_utc_us > now + LOCK_YEARS * 366 * 86400 * US:
            raise ArchiveError("too-long", f"a lock of more than {LOCK_YEARS} years was asked for, and none can be taken back")
        return datetime.fromtimestamp(-(-until_utc_us // US), UTC)      # whole seconds, later rather than sooner

    # ---- out -----------------------------------------------------------------------------------------------------------

    def read(self, key: str, version: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of one version from `start` on, in pieces, paced."""
        with _told(key):
            asked = {"Range": f"bytes={start}-"} if start else {}
            body = self._client.get_object(Bucket=self.place.bucket, Key=key, VersionId=version, **asked)["Body"]
            try:
                while piece := body.read(CHUNK_BYTES):
                    self._throttle.pace(len(piece))
                    yield piece
            finally:
                body.close()

    def sha256(self, key: str, version: str) -> str:
        """The digest of what the store gives back for one version, lower-case hex."""
        digest = hashlib.sha256()
        for piece in self.read(key, version):
            digest.update(piece)
        return digest.hexdigest()

    def versions(self, prefix: str) -> list[Version]:
        """All versions and delete markers below `prefix`, by key, oldest first."""
        found: list[Version] = []
        with _told(prefix):
            for page in self._client.get_paginator("list_object_versions").paginate(Bucket=self.place.bucket, Prefix=prefix):
                found += [Version(v["Key"], v["VersionId"], v["Size"], _us(v["LastModified"])) for v in page.get("Versions", ())]
                found += [Version(v["Key"], v["VersionId"], 0, _us(v["LastModified"]), True) for v in page.get("DeleteMarkers", ())]
        return sorted(found, key=lambda v: (v.key, v.utc_us))

    def lock_of(self, version: Version) -> tuple[int, bool]:
        """(locked until in UTC µs, 0 for not at all; whether a legal hold lies on it)."""
        with _told(version.key):
            head = self._client.head_object(Bucket=self.place.bucket, Key=version.key, VersionId=version.version_id)
        until = head.get("ObjectLockRetainUntilDate") if head.get("ObjectLockMode") == "COMPLIANCE" else None
        return _us(until) if until else 0, head.get("ObjectLockLegalHoldStatus") == "ON"

    def delete(self, key: str, version: str) -> None:
        """Remove one version for good. The store refuses (`denied`) while its lock lasts."""
        with _told(key):
            self._client.delete_object(Bucket=self.place.bucket, Key=key, VersionId=version)

    # ---- is it WORM ----------------------------------------------------------------------------------------------------

    def default_lock(self) -> int | None:
        """Days of the bucket's default COMPLIANCE lock; 0: it has none; None: these credentials may not ask."""
        try:
            with _told(self.place.bucket):
                rule = self._client.get_object_lock_configuration(Bucket=self.place.bucket)["ObjectLockConfiguration"]
        except ArchiveError as error:
            if error.word == "denied":
                return None
            if error.word in ("refused", "missing"):
                raise ArchiveError("not-worm", f"the bucket {self.place.bucket} has no Object Lock. It must be made with it: "
                                   "see docs/operators/archive.md") from error
            raise
        default = rule.get("Rule", {}).get("DefaultRetention", {})
        if default.get("Mode") != "COMPLIANCE":
            return 0
        return int(default.get("Days") or default.get("Years", 0) * 365)

    def self_test(self, key: str) -> Stored:
        """Lock a probe for a minute, try to shorten the lock and to delete it: both must be refused, else `not-worm`.

        LIMIT: with credentials that may delete nothing anyway (as the room's should be) only the shortening is a real trial; the
        keeper of the store runs `edge archive test` with his own once.
        """
        stored = self.put_bytes(key, b"examroom-edge: is this store WORM?\n", self._clock.now().utc_us + PROBE_LOCK_S * US)
        sooner = datetime.fromtimestamp(self._clock.now().utc_us // US + 5, UTC)
        tries: tuple[tuple[str, Callable[[], object]], ...] = (
            ("shortened the lock", lambda: self._client.put_object_retention(
                Bucket=self.place.bucket, Key=key, VersionId=stored.version_id,
                Retention={"Mode": "COMPLIANCE", "RetainUntilDate": sooner})),
            ("deleted a locked object", lambda: self._client.delete_object(
                Bucket=self.place.bucket, Key=key, VersionId=stored.version_id)))
        for what, attempt in tries:
            try:
                with _told(key):
                    attempt()
            except ArchiveError as error:
                if error.word not in ("denied", "refused"):
                    raise
            else:
                raise ArchiveError("not-worm", f"the store {what} when asked to: what it calls a COMPLIANCE lock binds nobody. "
                                   "It is not used as an archive; all footage stays here.")
        if self._look(key, stored.version_id, stored.bytes).retain_until_utc_us < stored.retain_until_utc_us:
            raise ArchiveError("not-worm", "the store refused to shorten a lock, and then it was shorter. It is not used as an archive.")
        return stored

    def may_delete(self, stored: Stored) -> bool | None:
        """After the probe's minute: whether these credentials may delete at all, which tells what held it before. None: too early."""
        if self._clock.now().utc_us <= stored.retain_until_utc_us + US:
            return None
        try:
            self.delete(stored.key, stored.version_id)
        except ArchiveError as error:
            if error.word == "denied":
                return False
            raise
        return True


def _now_sending(request: Any, **_: object) -> None:
    if isinstance(request.body, _Paced):
        request.body.sending = True


@contextmanager
def _told(what: str) -> Iterator[None]:
    """The client library's errors as ours."""
    try:
        yield
    except ArchiveError:
        raise
    except faults.ClientError as error:
        code, status = str(error.response.get("Error", {}).get("Code")), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"the store answered {code} ({status}) for {what}"
        if code in _SKEWED:
            raise ArchiveError("clock", f"{said}: this machine's clock and the store's differ too much") from error
        if code in _DENIED or status in (401, 403):
            raise ArchiveError("denied", f"{said}: these credentials may not do that, or a lock forbids it") from error
        if status >= 500 or status in (408, 429) or code in ("SlowDown", "RequestTimeout"):
            raise ArchiveError("unreachable", said) from error
        missing = status == 404 or code in ("NoSuchKey", "NoSuchVersion", "NoSuchBucket")
        raise ArchiveError("missing" if missing else "refused", said) from error
    except _DOWN as error:
        resting = _cause(error)
        raise resting if resting is not None else ArchiveError(
            "unreachable", f"the store does not answer ({type(error).__name__}); {what} waits") from error
    except (faults.NoCredentialsError, faults.PartialCredentialsError) as error:
        raise ArchiveError("credentials", "no keys for the store: name the file that holds them") from error
    except (faults.BotoCoreError, ValueError) as error:
        raise ArchiveError("refused", f"{what}: {error}") from error
    except OSError as error:
        raise ArchiveError("unreachable", f"{what}: {error}") from error


def _cause(error: BaseException) -> ArchiveError | None:
    """An ArchiveError of ours that the client library wrapped."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "kwargs", {}).get("error") if not isinstance(seen, ArchiveError) else None
        if isinstance(seen, ArchiveError):
            return seen
        seen = inner or seen.__cause__ or seen.__context__
    return None


def _us(moment: datetime) -> int:
    with suppress(OverflowError):
        return int(moment.timestamp()) * US + moment.microsecond
    return 0
