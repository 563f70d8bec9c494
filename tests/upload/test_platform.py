"""The client against servers that misbehave on a real socket: every trouble gets its own name, none gets through as an answer."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.upload.platform import PlatformClient, PlatformDenied, PlatformDown, PlatformError, PlatformRefused, check_address, open_http

ROOM = "000000-KD01-R01"
DAY = date(2026, 11, 26)
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port where each request gets `answer`, and then the end of the connection."""
    serving: list[asyncio.Task[None]] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.append(task)
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    async with listening:
        yield listening.sockets[0].getsockname()[1]
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


def says(status: str, *headers: str, body: bytes = b"", length: int | None = None) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", *headers, f"content-length: {len(body) if length is None else length}", "connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + body)
    return answer


async def asked(answer: Answer, deadline_s: float = 5.0) -> PlatformError:
    """The error that asking such a server for a roster ends with."""
    async with server(answer) as port, open_http() as http:
        with pytest.raises(PlatformError) as error:
            await PlatformClient(f"http://127.0.0.1:{port}", ROOM, http, deadline_s=deadline_s).roster("P1")
        return error.value


DSSE = "content-type: application/vnd.dsse+json"


@pytest.mark.parametrize(("answer", "reason"), [
    (says("200 OK", "content-type: text/html", body=b"<html>please log in</html>"), "garbled"),
    (says("200 OK", DSSE, body=b"\x00\xff"), "garbled"),
    (says("200 OK", DSSE, body=b"[1, 2]"), "garbled"),
    (says("200 OK", DSSE, body=b'{"payload": ""}'), "garbled"),
    (says("202 Accepted"), "garbled"),
    (says("204 No Content"), "garbled"),
    (says("304 Not Modified"), "garbled"),                          # nothing was asked for conditionally
    (says("302 Found", "location: http://example.invalid/"), "http_302"),
    (says("200 OK", DSSE, "content-encoding: gzip", body=gzip.compress(bytes(50_000_000), 1)), "garbled"),
    (says("200 OK", DSSE, body=bytes(3 << 20)), "oversize"),
    (says("200 OK", DSSE, body=b"{", length=100), "broken"),
    (says("500 Oops", "content-type: application/json", body=b'{"code": 1}'), "http_500"),
    (says("503 Busy", "retry-after: Thu, 26 Nov 2026 06:00:00 GMT"), "http_503"),
    (says("408 Slow"), "http_408"),
], ids=lambda value: value if isinstance(value, str) else "")
async def test_what_is_no_answer(answer: Answer, reason: str) -> None:
    error = await asked(answer)
    assert isinstance(error, PlatformDown) and error.reason == reason and error.reached
    assert "nothing is lost" in str(error)


async def test_a_retry_after_is_read_and_bounded() -> None:
    for text, seconds in (("120", 120), ("999999", 3600), ("-5", None), ("soon", None)):
        error = await asked(says("429 Later", f"retry-after: {text}"))
        assert isinstance(error, PlatformDown) and error.retry_after_s == seconds


async def test_a_refusal_carries_the_platforms_words_made_harmless() -> None:
    body = '{"type": "x", "title": "no", "status": 422, "code": "schema", "detail": "line\\nbreak\\u001b[31m %s"}' % ("x" * 1000)
    error = await asked(says("422 No", "content-type: application/problem+json", body=body.encode()))
    assert isinstance(error, PlatformRefused) and (error.status, error.code) == (422, "schema")
    assert error.detail.isprintable() and len(error.detail) == 300
    bare = await asked(says("404 No", body=b"\xff\xfe"))
    assert isinstance(bare, PlatformRefused) and (bare.status, bare.code) == (404, "")
    odd = await asked(says("400 No", "content-type: application/problem+json", body=b'{"code": "a b\\nc"}'))
    assert isinstance(odd, PlatformRefused) and odd.code == ""


@pytest.mark.parametrize("status", ["401 Who", "403 No"])
async def test_not_let_in(status: str) -> None:
    error = await asked(says(status))
    assert isinstance(error, PlatformDenied) and error.reason == f"http_{status[:3]}"


async def test_silence_and_dripping_end_at_the_deadline() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def dripping(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.dsse+json\r\ncontent-length: 100000\r\n\r\n")
        for _ in range(100_000):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)
    for answer in (silent, dripping):
        error = await asked(answer, deadline_s=0.3)
        assert isinstance(error, PlatformDown) and error.reason == "timeout"


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with open_http() as http:
        with pytest.raises(PlatformDown) as error:
            await PlatformClient(f"http://127.0.0.1:{port}", ROOM, http).plans(DAY, DAY)
        assert error.value.reason == "refused" and not error.value.reached
        with pytest.raises(PlatformDown) as error:
            await PlatformClient("https://exam-platform.invalid", ROOM, http).plans(DAY, DAY)
        assert error.value.reason == "unreachable" and not error.value.reached


@pytest.mark.parametrize("address", [
    "http://10.1.2.3/edge/v1", "http://exam-platform.invalid/edge/v1", "ftp://127.0.0.1/", "exam-platform.invalid", "", "http://",
    "https://user:hidden@exam-platform.invalid/", "https://exam-platform.invalid/?key=hidden", "http://127.0.0.1.example.invalid/"])
async def test_addresses_that_are_refused_in_plain_words(address: str) -> None:
    async with open_http() as http:
        with pytest.raises(ValueError, match=r"refused|must begin|must hold no") as error:
            PlatformClient(address, ROOM, http)
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize("address", ["https://exam-platform.invalid/edge/v1/", "http://127.0.0.1:8091/edge/v1", "http://[::1]:80", "http://localhost"])
def test_addresses_that_are_taken(address: str) -> None:
    assert check_address(address) == address.rstrip("/")


# ---- TLS --------------------------------------------------------------------------------------------------------------

class Pki:
    """A certificate authority of a web server, on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        usage = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                              key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
        ca = self._builder(self.name, self.key.public_key(), 100)
        ca = ca.add_extension(x509.BasicConstraints(True, None), True).add_extension(usage, True)
        self.ca = self._write("ca.pem", ca.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def leaf(self, name: str, days: int = 100) -> tuple[Path, Path]:
        """Certificate and key file for 127.0.0.1; one that ended `-days` ago if negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key(), days)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        certificate = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return self._write(f"{name}.pem", certificate), self._write(f"{name}.key", pem)

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key)
                .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=200))
                .not_valid_after(now + datetime.timedelta(days=days))
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False))

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def tls_server(pki: Pki, certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """As the province's: asks for the room's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki.ca))
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


PLANS = says("200 OK", "content-type: application/json", body=b"[]")


async def test_both_ends_show_certificates(pki: Pki) -> None:
    certificate, key = pki.leaf("room")
    async with server(PLANS, tls_server(pki, pki.leaf("platform"))) as port, open_http(ca=pki.ca, certificate=certificate, key=key) as http:
        assert await PlatformClient(f"https://127.0.0.1:{port}", ROOM, http).plans(DAY, DAY) == []


async def test_a_platform_with_a_strangers_or_an_expired_certificate_is_not_spoken_to(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    stranger = Pki(tmp_path / "other")
    certificate, key = pki.leaf("room")
    for shown in (stranger.leaf("platform"), pki.leaf("old", days=-1)):
        async with server(PLANS, tls_server(pki, shown)) as port, open_http(ca=pki.ca, certificate=certificate, key=key) as http:
            with pytest.raises(PlatformDenied) as error:
                await PlatformClient(f"https://127.0.0.1:{port}", ROOM, http).plans(DAY, DAY)
            assert error.value.reason == "tls"


async def test_a_room_without_its_certificate_is_not_let_in(pki: Pki) -> None:
    async with server(PLANS, tls_server(pki, pki.leaf("platform"))) as port, open_http(ca=pki.ca) as http:
        with pytest.raises((PlatformDenied, PlatformDown)) as error:
            await PlatformClient(f"https://127.0.0.1:{port}", ROOM, http).plans(DAY, DAY)
        assert error.value.reason in ("tls", "broken")      # TLS 1.3 tells only with the first answer


def test_tls_files_that_cannot_be_used(pki: Pki, tmp_path: Path) -> None:
    certificate, _ = pki.leaf("room")
    _, other_key = pki.leaf("other")
    for ca, shown, key in ((tmp_path / "missing.pem", None, None), (None, certificate, other_key), (other_key, None, None)):
        with pytest.raises(ValueError, match="cannot be used"):
            open_http(ca=ca, certificate=shown, key=key)
