"""What the archive rests on, asked of a real Object Lock server (Ceph from Debian), and of an emulator for the shape of the calls only.

Ceph: `tests/rigs/object-lock-server install` first; one cluster on loopback for this file, 20 s to start. moto is not faithful about locks
(it shortens them), so nothing about locks is asked of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from edge import retrieval
from edge.clock import US, SystemClock
from edge.retrieval import NotExportable
from edge.sessions import events as e
from edge.sim.authority import Authority
from edge.upload import archive_keys as keys
from edge.upload.archive import Archive, ArchiveError, Place
from tests.upload.archive_office import SESSION, Office

if TYPE_CHECKING:
    from tests.conftest import Device, Hall

RIG = Path(__file__).parents[1] / "rigs" / "object-lock-server"
HOUR_US = 3600 * US


@dataclass(frozen=True, slots=True)
class Server:
    endpoint: str
    owner: tuple[str, str]
    uploader: tuple[str, str]

    def archive(self, bucket: str, who: tuple[str, str] | None = None, port: int | None = None) -> Archive:
        endpoint = self.endpoint if port is None else f"http://127.0.0.1:{port}"
        return Archive(Place(bucket, endpoint, *(who or self.owner)), SystemClock(), lambda: True)

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.endpoint, aws_access_key_id=self.owner[0], aws_secret_access_key=self.owner[1],
                            region_name="us-east-1")

    def bucket(self, name: str, lock: bool = True) -> str:
        self.client().create_bucket(Bucket=name, **({"ObjectLockEnabledForBucket": True} if lock else {}))
        return name


@pytest.fixture(scope="module")
def ceph() -> Iterator[Server]:
    if shutil.which("radosgw") is None:
        pytest.skip("Ceph is not installed: tests/rigs/object-lock-server install")
    folder = Path(tempfile.mkdtemp(prefix="ols-", dir="/var/tmp"))      # short: UNIX sockets lie in it
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = min(probe.getsockname()[1], 65000)
    try:
        started = subprocess.run([RIG, "start", folder, str(port)], capture_output=True, text=True, check=False, timeout=300)
        if started.returncode != 0:
            pytest.fail(f"the rig did not start: {started.stderr[-1000:]}")
        said = dict(line.split("=", 1) for line in started.stdout.splitlines())
        yield Server(said["endpoint"], (said["access_key"], said["secret_key"]),
                     (said["uploader_access_key"], said["uploader_secret_key"]))
    finally:
        subprocess.run([RIG, "stop", folder], capture_output=True, check=False, timeout=200)
        shutil.rmtree(folder, ignore_errors=True)


def later(us: int = HOUR_US) -> int:
    return SystemClock().now().utc_us + us


def word(what: Callable[[], object]) -> str:
    with pytest.raises(ArchiveError) as caught:
        what()
    return caught.value.word


# ---- locks, on a real server ------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_lock_holds_against_its_owner_and_ends_with_its_time(ceph: Server) -> None:
    archive = ceph.archive(ceph.bucket("locks"))
    assert archive.default_lock() == 0
    stored = archive.put_bytes("v1/a", b"film", later())
    assert word(lambda: archive.delete(stored.key, stored.version_id)) == "denied"
    longer = archive.locked(stored.key, stored.version_id, 4, later(2 * HOUR_US))
    assert longer.retain_until_utc_us > stored.retain_until_utc_us, "A5: longer is always possible"
    archive.put_bytes("v1/a", b"other", later())
    assert archive.sha256(stored.key, stored.version_id) == hashlib.sha256(b"film").hexdigest(), "a later version takes nothing away"
    ceph.client().delete_object(Bucket="locks", Key="v1/a")
    assert [v.marker for v in archive.versions("v1/a")] == [False, False, True]
    short = archive.put_bytes("v1/b", b"film", later(3 * US))
    assert word(lambda: archive.delete(short.key, short.version_id)) == "denied"
    deadline = time.monotonic() + 30
    while SystemClock().now().utc_us <= short.retain_until_utc_us:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    archive.delete(short.key, short.version_id)
    assert archive.versions("v1/b") == []


@pytest.mark.slow
def test_the_self_test_tells_worm_from_what_only_looks_like_it(ceph: Server) -> None:
    archive = ceph.archive(ceph.bucket("worm"))
    stored = archive.self_test("v1/probe/1")
    assert archive.may_delete(stored) is None
    plain = ceph.archive(ceph.bucket("plain", lock=False))
    assert word(lambda: plain.self_test("v1/probe/1")) in ("not-worm", "not-locked", "refused")
    assert word(plain.default_lock) == "not-worm"


@pytest.mark.slow
def test_a_legal_hold_outlasts_the_date(ceph: Server) -> None:
    archive = ceph.archive(ceph.bucket("holds"))
    stored = archive.put_bytes("v1/a", b"film", later(2 * US))
    archive.hold(stored.key, stored.version_id, True)
    deadline = time.monotonic() + 30
    while SystemClock().now().utc_us <= stored.retain_until_utc_us:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert archive.lock_of(archive.versions("v1/a")[0])[1]
    assert word(lambda: archive.delete(stored.key, stored.version_id)) == "denied"
    archive.hold(stored.key, stored.version_id, False)
    archive.delete(stored.key, stored.version_id)


@pytest.mark.slow
def test_a_multipart_upload_loses_its_lock_there_and_ours_puts_it_on(ceph: Server) -> None:
    """A3. That is why ours never makes one; and if something else did, `adopt` sees and mends it."""
    archive, client = ceph.archive(ceph.bucket("parts")), ceph.client()
    data, until = random.Random(3).randbytes(6 << 20), later()
    sha256 = hashlib.sha256(data).hexdigest()
    upload = client.create_multipart_upload(Bucket="parts", Key="v1/a", Metadata={"sha256": sha256}, ObjectLockMode="COMPLIANCE",
                                            ObjectLockRetainUntilDate=until // US)
    part = client.upload_part(Bucket="parts", Key="v1/a", PartNumber=1, UploadId=upload["UploadId"], Body=data)
    client.complete_multipart_upload(Bucket="parts", Key="v1/a", UploadId=upload["UploadId"],
                                     MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    (version,) = archive.versions("v1/a")
    asked = archive.lock_of(version)[0]
    adopted = archive.adopt("v1/a", sha256, len(data), until)
    assert adopted is not None and adopted.retain_until_utc_us >= until, f"it was locked until {asked} before"
    assert word(lambda: archive.delete("v1/a", adopted.version_id)) == "denied"


@pytest.mark.slow
def test_a_film_of_twenty_megabytes_is_one_locked_object(ceph: Server) -> None:
    archive = ceph.archive(ceph.bucket("films"))
    data = random.Random(4).randbytes(20 << 20)
    sha256 = hashlib.sha256(data).hexdigest()
    stored = archive.put("v1/film.mp4", io.BytesIO(data), len(data), sha256, hashlib.md5(data, usedforsecurity=False).digest(), later())
    assert archive.sha256(stored.key, stored.version_id) == sha256
    assert "-" not in ceph.client().head_object(Bucket="films", Key="v1/film.mp4")["ETag"], "the ETag of a multipart upload has a dash"
    # Ceph 16 takes any ChecksumSHA256, so it is the MD5 that tells it of a file that changed under our hands
    assert word(lambda: archive.put("v1/b", io.BytesIO(b"flim"), 4, hashlib.sha256(b"film").hexdigest(),
                                    hashlib.md5(b"film", usedforsecurity=False).digest(), later())) == "refused"
    assert archive.versions("v1/b") == []


@pytest.mark.slow
def test_the_rooms_own_user_can_add_and_lengthen_and_neither_list_nor_delete(ceph: Server) -> None:
    """The policy of docs/operators/archive.md, as it stands there."""
    page = (Path(__file__).parents[2] / "docs/operators/archive.md").read_text(encoding="utf-8")
    policy = json.loads(page.split("```json\n")[1].split("```")[0].replace("edge-room", "uploader").replace("evid-3y", "rights"))
    archive = ceph.archive(ceph.bucket("rights"))
    ceph.client().put_bucket_policy(Bucket="rights", Policy=json.dumps(policy))
    room = ceph.archive("rights", ceph.uploader)
    stored = room.put_bytes("v1/a", b"film", later())
    assert room.adopt("v1/a", hashlib.sha256(b"film").hexdigest(), 4, later(2 * HOUR_US)) is not None
    assert room.adopt("v1/none", hashlib.sha256(b"film").hexdigest(), 4, later()) is None
    assert room.sha256("v1/a", stored.version_id) == hashlib.sha256(b"film").hexdigest()
    room.hold("v1/a", stored.version_id, True)
    assert room.self_test("v1/probe/1") and archive.versions("v1/a")
    short = archive.put_bytes("v1/b", b"film", later(2 * US))
    while SystemClock().now().utc_us <= short.retain_until_utc_us:
        time.sleep(0.2)
    assert word(lambda: room.delete("v1/b", short.version_id)) == "denied", "though no lock holds it"
    assert word(lambda: room.versions("v1/")) == "denied"


@pytest.mark.slow
def test_a_line_cut_in_mid_body_leaves_no_half_object(ceph: Server) -> None:
    """U9, through a wire that is cut after a random number of bytes."""
    archive, rng = ceph.archive(ceph.bucket("cuts")), random.Random(5)
    wire = Wire(int(ceph.endpoint.rpartition(":")[2]))
    try:
        for number in range(12):
            data = rng.randbytes(400_000)
            key, sha256 = f"v1/{number}", hashlib.sha256(data).hexdigest()
            through = ceph.archive("cuts", port=wire.port)      # its own connections: a kept one would not be cut
            wire.cut_after = [rng.randrange(1000, 400_000) for _ in range(3)]       # all three tries of one call
            with pytest.raises(ArchiveError) as caught:
                through.put_bytes(key, data, later())
            assert caught.value.word == "unreachable" and archive.versions(key) == []
            through.put_bytes(key, data, later())
            (version,) = archive.versions(key)
            assert archive.sha256(key, version.version_id) == sha256
    finally:
        wire.close()


class Wire:
    """A TCP connection to the server that is cut after so many bytes from the client. `cut_after`: of the next connections."""

    def __init__(self, to: int) -> None:
        self.to, self.cut_after = to, list[int]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(client, self.cut_after.pop(0) if self.cut_after else None), daemon=True).start()

    def _carry(self, client: socket.socket, left: int | None) -> None:
        with client, socket.create_connection(("127.0.0.1", self.to)) as server:
            threading.Thread(target=self._back, args=(server, client), daemon=True).start()
            try:
                while data := client.recv(4096 if left is None else min(4096, left)):
                    server.sendall(data)
                    if left is not None and (left := left - len(data)) <= 0:
                        return
            except OSError:
                return

    @staticmethod
    def _back(server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            return


# ---- the whole way, on a real server ------------------------------------------------------------------------------------------

@pytest.mark.slow
async def test_a_session_goes_in_and_comes_out_proven(ceph: Server, hall: Hall, authority: Authority, device: Device,
                                                      tmp_path: Path) -> None:
    for bucket in ("evid-3y", "evid-6y"):
        ceph.bucket(bucket)
    office = Office(hall, authority, device, ceph.endpoint, ceph.owner)
    await office.sealed()
    await office.archive()
    (fact,) = office.told(e.SessionArchived)
    assert fact.bucket == "evid-6y" and office.may_leave(days=91)
    elsewhere = [ceph.archive("evid-3y"), ceph.archive("evid-6y")]
    found = retrieval.find(elsewhere, SESSION)
    verified = retrieval.verify(found, authority.root_pem, tmp_path)
    assert verified.report.verdict != "FAIL" and verified.problems == (), verified
    film = next(tail for tail in found.files if tail.endswith(".mp4"))
    ceph.client().delete_object(Bucket="evid-6y", Key=keys.prefix(SESSION) + film)
    elsewhere[1].put_bytes(keys.prefix(SESSION) + film, b"forged", later())
    verified = retrieval.verify(retrieval.find(elsewhere, SESSION), authority.root_pem, tmp_path)
    assert verified.report.verdict != "FAIL", "the session is all there"
    assert len(verified.problems) == 2 and "deletion mark" in verified.problems[0] and "2 versions" in verified.problems[1]
    with pytest.raises(NotExportable, match="may not go"):
        retrieval.expire(found, SystemClock(), device.signer, "Keeper 1")


# ---- the shape of the calls, on an emulator --------------------------------------------------------------------------------------

@pytest.fixture
def emulator() -> Iterator[Server]:
    from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Server(f"http://{host}:{port}", ("a", "b"), ("a", "b"))
    server.stop()


def test_the_calls_have_the_shape_that_another_server_knows(emulator: Server) -> None:
    archive = emulator.archive(emulator.bucket("shape"))
    data = random.Random(6).randbytes(9 << 20)
    sha256 = hashlib.sha256(data).hexdigest()
    stored = archive.put("v1/a.mp4", io.BytesIO(data), len(data), sha256, hashlib.md5(data, usedforsecurity=False).digest(), later())
    assert archive.adopt("v1/a.mp4", sha256, len(data), later()) is not None
    assert archive.sha256("v1/a.mp4", stored.version_id) == sha256
    assert b"".join(archive.read("v1/a.mp4", stored.version_id, 100)) == data[100:]
    assert [(v.key, v.bytes, v.marker) for v in archive.versions("v1/")] == [("v1/a.mp4", len(data), False)]
    assert word(lambda: archive.delete("v1/a.mp4", stored.version_id)) == "denied"
    assert word(lambda: archive.self_test("v1/probe/1")) == "not-worm", "it shortens locks, and is found out"
