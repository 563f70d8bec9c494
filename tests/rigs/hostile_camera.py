#!/usr/bin/env python3
"""A hostile network camera: an RTSP server (RFC 2326; TCP interleaved and UDP) that does to order what cameras do at their worst.

  hostile_camera.py [--port 0] [--control 0] [--max-s 3600]      prints `ready PORT CONTROL`; ends when its stdin closes, or after max-s

Cameras are made over HTTP at CONTROL; every answer is JSON:
  POST /NAME {settings}                                 make the camera rtsp://127.0.0.1:PORT/NAME, or change it
  POST /NAME/fault {"kind": K, "value": V, "after": N}  do K when N more pictures are sent (below)
  GET /NAME                                             its ledger: connections now, total and most at once, DESCRIBEs and their times,
                                                        and per session: began, ended, how, every picture and sound packet sent
Each session plays the film from its first picture, over and over, timestamps going on; `mid` joins in the middle of a group of pictures.

Faults: stall S (send nothing for S seconds; its time goes on, so pictures are lost) · half (of one picture, then go on) · close (half a
picture, then the connection ends) · torn (half an RTP packet, then it ends) · drop (reset, no goodbye) · jump S (timestamps of both
tracks by S seconds, either way) · same N (the next N pictures bear one timestamp) · clock S (the sender reports' wall clock alone jumps)
· film NAME (another picture size: new parameter sets in the stream, then a key frame) · garbage N (bytes between
packets) · set {settings}.
Times are microseconds of the boot clock. Settings (a class) and pump: hostile_session.py; films and sounds:
hostile_media.py. Standard library only; wants ffmpeg once, to make the films.
"""
from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import random
import re
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))      # Python's safe path leaves it out

from hostile_session import Camera, Fault, Session, Settings, Track, film, now_us, sound


class Connection:
    """One TCP connection of a client."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer
        self.camera: Camera | None = None
        self.session: Session | None = None
        self.trickle: asyncio.Task | None = None
        self.nonce = f"{random.randrange(1 << 64):016x}"
        writer.transport.set_write_buffer_limits(high=1 << 20)

    async def run(self) -> None:
        how = "closed"
        try:
            while await self._one():
                pass
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            how = "reset" if isinstance(error, ConnectionResetError) else "closed"
        finally:
            if self.session:
                self.session.end(how)
            if self.camera:
                self.camera.connections -= 1
            if self.trickle:
                self.trickle.cancel()
            self.writer.close()

    async def break_off(self, *, reset: bool) -> None:
        if reset:
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()
        if self.session:
            self.session.end("camera")

    async def _one(self) -> bool:
        """Take one request or interleaved packet; False at the end."""
        first = await self.reader.read(1)
        if not first:
            return False
        if first == b"$":
            _, size = struct.unpack(">BH", await self.reader.readexactly(3))
            await self.reader.readexactly(size)
            if self.session:
                self.session.heard = time.monotonic()
            return True
        head = first + await self.reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").strip().split("\r\n")
        method, url, _ = line.split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (h.partition(":") for h in rest)}
        if length := int(headers.get("content-length", 0)):
            await self.reader.readexactly(length)
        if self.camera is None and (camera := self.server.cameras.get(url.split("/", 3)[-1].split("/")[0].split("?")[0])):
            await asyncio.sleep(0.02)           # whoever left just now has been seen to leave
            self.camera = camera
            camera.joined()
        if self.session:
            self.session.heard = time.monotonic()
        await self._answer(method, url, headers)
        return True

    async def _answer(self, method: str, url: str, headers: dict[str, str]) -> None:
        seq, camera = headers.get("cseq", "0"), self.camera
        if camera is None:
            self._say(seq, "404 Not Found")
            return
        s = camera.settings
        if s.deaf and self.session:
            return
        if method == "DESCRIBE":
            camera.describes.append(now_us())
        if method == "OPTIONS":
            self._say(seq, "200 OK", {"Public": "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, GET_PARAMETER"})
        elif s.auth and not self._knows(method, headers.get("authorization", ""), s):
            ask = f'Digest realm="hostile", nonce="{self.nonce}"' if s.auth == "digest" else 'Basic realm="hostile"'
            self._say(seq, "401 Unauthorized", {"WWW-Authenticate": ask})
        elif method == "DESCRIBE":
            await self._describe(seq, url, s)
        elif method == "SETUP":
            self._setup(seq, url, headers, s)
        elif self.session is None or headers.get("session", "").split(";")[0] != self.session.id:
            self._say(seq, "454 Session Not Found")
        elif method == "PLAY":
            await self._play(seq, url, s)
        elif method == "TEARDOWN":
            self.session.end("teardown")
            self._say(seq, "200 OK", {"Session": self.session.id})
        elif method == "GET_PARAMETER":
            self._say(seq, "200 OK", {"Session": self.session.id})
        else:
            self._say(seq, "405 Method Not Allowed")
        with suppress(OSError):
            await self.writer.drain()

    def _say(self, seq: str, status: str, headers: dict[str, str] | None = None, body: str = "") -> None:
        lines = [f"RTSP/1.0 {status}", f"CSeq: {seq}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())

    def _knows(self, method: str, said: str, s: Settings) -> bool:
        if s.auth == "basic":
            return said == "Basic " + base64.b64encode(s.login.encode()).decode()
        facts = dict(re.findall(r'(\w+)="([^"]*)"', said))
        user, _, password = s.login.partition(":")

        def md5(text: str) -> str:
            return hashlib.md5(text.encode()).hexdigest()
        ha1, ha2 = md5(f"{user}:hostile:{password}"), md5(f"{method}:{facts.get('uri', '')}")
        return facts.get("nonce") == self.nonce and facts.get("response") == md5(f"{ha1}:{self.nonce}:{ha2}")

    async def _describe(self, seq: str, url: str, s: Settings) -> None:
        match s.answer:
            case "silent":
                return
            case "hangup":
                self.writer.close()
                return
            case "401" | "403" | "404" | "503" as code:
                names = {"401": "Unauthorized", "403": "Forbidden", "404": "Not Found", "503": "Service Unavailable"}
                more = {"WWW-Authenticate": f'Digest realm="hostile", nonce="{self.nonce}"'} if code == "401" else {}
                self._say(seq, f"{code} {names[code]}", more)
                return
        text = ("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=hostile\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*\r\na=range:npt=now-\r\n"
                + film(s.video).sdp("track0", s.sprop) + (sound(s.sound).sdp("track1") if s.sound else ""))
        headers = {"Content-Type": "application/sdp", "Content-Base": url.rstrip("/") + "/"}
        if s.answer == "trickle":
            self.trickle = asyncio.create_task(self._drip(f"RTSP/1.0 200 OK\r\nCSeq: {seq}\r\nContent-Length: {len(text)}\r\n\r\n{text}"))
            return
        if s.answer == "huge":
            headers["X-Greeting"] = "a" * (8 << 20)
        self._say(seq, "200 OK", headers, text)

    async def _drip(self, text: str) -> None:
        with suppress(OSError):
            for letter in text.encode():
                self.writer.write(bytes([letter]))
                await self.writer.drain()
                await asyncio.sleep(1)

    def _setup(self, seq: str, url: str, headers: dict[str, str], s: Settings) -> None:
        camera = self.camera
        assert camera is not None
        if self.session is None:
            if s.slots and camera.slots_taken() >= s.slots:
                self._say(seq, "453 Not Enough Bandwidth")
                return
            self.session = Session(camera, self)
            camera.sessions.append(self.session)
        kind = "audio" if url.rstrip("/").endswith("track1") else "video"
        track = Track(url, kind)
        asked = headers.get("transport", "")
        if found := re.search(r"client_port=(\d+)", asked):
            track.address = (self.writer.get_extra_info("peername")[0], int(found[1]))
            track.sockets = self._ports()
            ports = [each.getsockname()[1] for each in track.sockets]
            said = f"RTP/AVP;unicast;client_port={found[1]}-{int(found[1]) + 1};server_port={ports[0]}-{ports[1]}"
        else:
            found = re.search(r"interleaved=(\d+)", asked)
            track.channel = int(found[1]) if found else 2 * len(self.session.tracks)
            said = f"RTP/AVP/TCP;unicast;interleaved={track.channel}-{track.channel + 1}"
        self.session.tracks[kind] = track
        self._say(seq, "200 OK", {"Session": f"{self.session.id};timeout={s.timeout_s}", "Transport": said})

    @staticmethod
    def _ports() -> tuple[socket.socket, socket.socket]:
        while True:                             # RTP on an even port, RTCP on the next
            pair = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with suppress(OSError):
                pair[0].bind(("127.0.0.1", random.randrange(20000, 60000, 2)))
                pair[1].bind(("127.0.0.1", pair[0].getsockname()[1] + 1))
                for each in pair:
                    each.setblocking(False)
                return pair
            for each in pair:
                each.close()

    async def _play(self, seq: str, url: str, s: Settings) -> None:
        session = self.session
        assert session is not None
        if s.play == "silent":
            return
        if s.play == "454":
            self._say(seq, "454 Session Not Found")
            return
        headers = {"Session": session.id, "Range": "npt=now-"}
        if s.rtp_info:
            headers["RTP-Info"] = ",".join(f"url={t.control};seq={t.seq + 1 & 0xFFFF};rtptime={t.base}" for t in session.tracks.values())
        self._say(seq, "200 OK", headers)
        if session.task is None:
            session.task = asyncio.create_task(session.play())
            session.task.add_done_callback(self.server.look_at)


class Server:
    def __init__(self) -> None:
        self.cameras: dict[str, Camera] = {}
        self.broken = ""

    def look_at(self, task: asyncio.Task) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.broken = repr(task.exception())
            print("hostile camera:", self.broken, file=sys.stderr, flush=True)

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(self, reader, writer).run()

    async def expire(self) -> None:
        while True:
            await asyncio.sleep(1)
            for session in (s for c in self.cameras.values() for s in c.sessions if not s.how):
                if time.monotonic() - session.heard > session.camera.settings.timeout_s:
                    session.end("expired")
                    session.connection.writer.close()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One HTTP request (RFC 9112), then the connection ends."""
        with suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            length = next(iter(re.findall(r"(?i)content-length: *(\d+)", head)), "0")
            body = json.loads((await reader.readexactly(int(length))) or b"{}")
            try:
                reply, status = json.dumps(self._do(method, path.strip("/").split("/"), body)).encode(), "200 OK"
            except (KeyError, ValueError, TypeError) as error:
                reply, status = json.dumps({"error": str(error)}).encode(), "400 Bad Request"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(reply)}\r\nConnection: close\r\n\r\n".encode() + reply)
            await writer.drain()
        writer.close()

    def _do(self, method: str, path: list[str], body: dict) -> dict:
        if self.broken:
            raise ValueError(self.broken)
        match method, path:
            case "GET", [name]:
                return self.cameras[name].ledger()
            case "POST", [name]:
                camera = self.cameras.setdefault(name, Camera(name))
                camera.change(body)
                film(camera.settings.video)
                if camera.settings.sound:
                    sound(camera.settings.sound)
                return {}
            case "POST", [name, "fault"]:
                fault = Fault(**body)
                if fault.kind == "film":
                    film(str(fault.value))
                self.cameras[name].faults.append(fault)
                return {}
        raise ValueError("POST /NAME, POST /NAME/fault or GET /NAME")


async def leash() -> None:
    """Returns when stdin closes."""
    loop, closed = asyncio.get_running_loop(), asyncio.Event()

    def look() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            closed.set()
    loop.add_reader(0, look)
    await closed.wait()


async def serve(a: argparse.Namespace) -> None:
    server = Server()
    rtsp = await asyncio.start_server(server.client, "127.0.0.1", a.port, limit=1 << 16)
    control = await asyncio.start_server(server.control, "127.0.0.1", a.control)
    expiry = asyncio.create_task(server.expire())
    print("ready", rtsp.sockets[0].getsockname()[1], control.sockets[0].getsockname()[1], flush=True)
    with suppress(TimeoutError):
        await asyncio.wait_for(leash(), a.max_s)
    expiry.cancel()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--port", type=int, default=0)
    ap.add_argument("--control", type=int, default=0)
    ap.add_argument("--max-s", type=int, default=3600)
    asyncio.run(serve(ap.parse_args()))


if __name__ == "__main__":
    main()
