"""One client's film on the hostile camera: settings, faults, the ledger, and the pump that sends RTP and RTCP (RFC 3550).

Knows no RTSP: a session is given its tracks and a connection to write to. Started by hostile_camera.py. Standard library only.
LIMIT: one client's sound and picture share one pump; a client that does not read holds up its own session (TCP), nobody else's.
"""
from __future__ import annotations

import asyncio
import random
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Protocol

import hostile_media as media

NTP_EPOCH = 2_208_988_800          # seconds from 1900 to 1970
SOURCES = (0x1111AAAA, 0x2222BBBB)


@dataclass
class Settings:
    video: str = "h264"             # a film of hostile_media
    sound: str = "aac"              # a sound, or "" for none
    auth: str = ""                  # "", basic or digest, for `login`
    login: str = "room:right"
    answer: str = "ok"              # to DESCRIBE: ok, silent, hangup, 401, 403, 404, 503, huge (8 MB of header), trickle (1 byte a second)
    play: str = "ok"                # to PLAY: ok, silent, 454
    rtp_info: bool = True
    sr_s: float = 5.0               # seconds between sender reports; 0: none
    inband: bool = True             # parameter sets before each key frame
    keys: bool = True               # key frames are sent; False: only what needs one before it
    sprop: bool = True              # parameter sets in the SDP
    fps: float = 0.0                # delivered, whatever is declared; 0: as declared
    sound_ppm: int = 0              # how much faster the sound's clock runs than the picture's
    pictures: bool = True           # false: sends none, though declared
    sounds: bool = True
    garbage_sound: bool = False     # noise in place of coded sound
    mid: bool = False
    timeout_s: int = 60             # a session not heard of for so long is over
    slots: int = 0                  # sessions at once, 453 beyond; a session without TEARDOWN keeps its slot for timeout_s. 0: any number
    deaf: bool = False              # connected, playing, but answers no request


@dataclass
class Fault:
    kind: str
    value: float | int | str | dict | None = None
    after: int = 0


def now_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


film = cache(media.load_film)
sound = cache(media.load_sound)


class Camera:
    def __init__(self, name: str) -> None:
        self.name, self.settings, self.faults = name, Settings(), []
        self.connections = self.most = self.total = 0
        self.describes: list[int] = []
        self.sessions: list[Session] = []

    def change(self, facts: dict) -> None:
        known = {f.name for f in fields(Settings)}
        if unknown := set(facts) - known:
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        for name, value in facts.items():
            setattr(self.settings, name, value)

    def joined(self) -> None:
        self.connections += 1
        self.total += 1
        self.most = max(self.most, self.connections)

    def slots_taken(self) -> int:
        until = now_us() - self.settings.timeout_s * 1_000_000
        return sum(not s.how or (s.how != "teardown" and s.ended > until) for s in self.sessions)

    def ledger(self) -> dict:
        return {"connections": self.connections, "most": self.most, "total": self.total, "describes": self.describes,
                "sessions": [s.facts() for s in self.sessions], "faults": len(self.faults)}


@dataclass
class Track:
    control: str
    media: str                          # video or audio
    channel: int = 0                    # TCP
    address: tuple[str, int] | None = None
    sockets: tuple = ()
    seq: int = field(default_factory=lambda: random.randrange(60000))
    base: int = field(default_factory=lambda: random.randrange(1 << 32))
    packets: int = 0
    octets: int = 0
    stamp: int = 0


class Wire(Protocol):
    """The client's TCP connection."""
    writer: asyncio.StreamWriter

    async def break_off(self, *, reset: bool) -> None: ...


class Session:
    """One client's film. Rows of `pictures`: digest, key, bytes, RTP timestamp, when sent, whole; of `sounds`: digest, timestamp, when."""

    def __init__(self, camera: Camera, connection: Wire) -> None:
        self.id = f"{random.randrange(1 << 32):08x}"
        self.camera, self.connection = camera, connection
        self.tracks: dict[str, Track] = {}
        self.pictures: list[list] = []
        self.sounds: list[list] = []
        self.began = self.ended = 0
        self.how = ""
        self.heard = time.monotonic()
        self.skipped = 0
        self.task: asyncio.Task | None = None
        self._jump_s = self._clock_s = self._stall_until = self._wall = 0.0
        self._same: list = [0, 0]
        self._film = film(camera.settings.video)
        self._at = 0

    def facts(self) -> dict:
        return {"began": self.began, "ended": self.ended, "how": self.how, "udp": any(t.address for t in self.tracks.values()),
                "skipped": self.skipped, "pictures": self.pictures, "sounds": self.sounds}

    def end(self, how: str) -> None:
        if self.how:
            return
        self.how, self.ended = how, now_us()
        if self.task and self.task is not asyncio.current_task():
            self.task.cancel()
        for track in self.tracks.values():
            for each in track.sockets:
                each.close()

    # ---- the pump ----

    async def play(self) -> None:
        """Send what is due, picture and sound by their own clocks, until the session ends."""
        self.began = now_us()
        start = time.monotonic() + 0.02
        self._wall = time.time() + 0.02 + NTP_EPOCH
        picture_s, sound_s, count, report_s = 0.0, 0.0, 0, 0.0
        video, audio = self.tracks.get("video"), self.tracks.get("audio")
        if self.camera.settings.mid:
            self._at = 7
        while not self.how:
            s = self.camera.settings
            takes_picture = video and (not audio or picture_s <= sound_s)
            due = picture_s if takes_picture else sound_s
            wait = start + due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            if s.sr_s and due >= report_s:
                for track in self.tracks.values():
                    self._report(track, due)
                report_s = due + s.sr_s
            if takes_picture:
                if not await self._picture(video, picture_s, 1 / (s.fps or self._film.fps)):
                    return
                picture_s += 1 / (s.fps or self._film.fps)
            elif audio:
                step = sound(s.sound)
                await self._sound(audio, step, count)
                count += 1
                sound_s = count * step.step / step.rate / (1 + s.sound_ppm / 1e6)

    async def _picture(self, track: Track, due_s: float, step_s: float) -> bool:
        """False when the connection is over."""
        fault = self._next_fault()
        if fault is not None:
            self._order(fault)
        unit = self._film.pictures[self._at % len(self._film.pictures)]
        self._at += 1
        settings = self.camera.settings
        if time.monotonic() < self._stall_until or not settings.pictures or (unit.key and not settings.keys):
            self.skipped += 1
            return True
        stamp = track.base + round((due_s + unit.shift * step_s + self._jump_s) * 90000) & 0xFFFFFFFF
        if self._same[0] > 0:
            self._same[0] -= 1
            stamp = self._same[1] = self._same[1] or stamp
        kind = fault.kind if fault else ""
        payloads = (self._film.set_payloads() if unit.key and settings.inband else []) + unit.payloads
        sent = payloads[:len(payloads) // 2] if kind in ("half", "close", "torn") else payloads
        packets = [self._rtp(track, p, stamp, 96, marker=p is payloads[-1]) for p in sent]
        if kind in ("half", "close", "torn"):
            track.seq += len(payloads) - len(sent)
        data = b"".join(self._frame(track.channel, p) for p in packets)
        if kind == "torn":
            whole = self._frame(track.channel, self._rtp(track, payloads[-1], stamp, 96, marker=True))
            data += whole[:len(whole) // 2]
        if kind == "garbage":
            data = random.Random(7).randbytes(int(fault.value or 64)).replace(b"$", b"#") + data
        self.pictures.append([unit.digest, int(unit.key), unit.size, stamp, now_us(), int(sent is payloads)])
        await self._send(track, packets, data)
        if kind in ("close", "torn", "drop"):
            await self.connection.break_off(reset=kind == "drop")
            return False
        return True

    async def _sound(self, track: Track, what: media.Sound, count: int) -> None:
        settings = self.camera.settings
        if time.monotonic() < self._stall_until or not settings.sounds:
            return
        payload, identity = what.packets[count % len(what.packets)]
        if settings.garbage_sound:
            payload = payload[:4] + random.Random(count).randbytes(len(payload) - 4)
            identity = media.digest(payload[4:])
        stamp = track.base + count * what.step + round(self._jump_s * what.rate) & 0xFFFFFFFF
        packet = self._rtp(track, payload, stamp, what.payload_type, marker=True)
        self.sounds.append([identity, stamp, now_us()])
        await self._send(track, [packet], self._frame(track.channel, packet))

    def _next_fault(self) -> Fault | None:
        """Count down; the first that is due. `set` and the like never wait for each other: they are all done."""
        found = None
        for fault in list(self.camera.faults):
            fault.after -= 1
            if fault.after < 0 and found is None:
                self.camera.faults.remove(fault)
                found = fault
        return found

    def _order(self, fault: Fault) -> None:
        match fault.kind, fault.value:
            case "stall", (int() | float()) as seconds:
                self._stall_until = time.monotonic() + seconds
            case "jump", (int() | float()) as seconds:
                self._jump_s += seconds
            case "clock", (int() | float()) as seconds:
                self._clock_s += seconds
            case "same", int(count):
                self._same = [count, 0]
            case "film", str(name):
                self._film, self._at = film(name), 0
            case "set", dict(facts):
                self.camera.change(facts)

    # ---- RTP and RTCP (RFC 3550) ----

    def _rtp(self, track: Track, payload: bytes, stamp: int, payload_type: int, *, marker: bool) -> bytes:
        track.seq += 1
        track.packets += 1
        track.octets += len(payload)
        source = SOURCES[track.media == "audio"]
        return struct.pack(">BBHII", 0x80, payload_type | 0x80 * marker, track.seq & 0xFFFF, stamp, source) + payload

    @staticmethod
    def _frame(channel: int, packet: bytes) -> bytes:
        return struct.pack(">cBH", b"$", channel, len(packet)) + packet

    def _report(self, track: Track, due_s: float) -> None:
        """A sender report: this RTP timestamp is this wall time."""
        if time.monotonic() < self._stall_until:
            return
        rate, drift = 90000, 1.0
        if track.media == "audio":
            rate, drift = sound(self.camera.settings.sound).rate, 1 + self.camera.settings.sound_ppm / 1e6
        wall = self._wall + due_s + self._clock_s       # exact: what is late is only the sending
        stamp = track.base + round((due_s * drift + self._jump_s) * rate) & 0xFFFFFFFF
        report = struct.pack(">BBHIIIIII", 0x80, 200, 6, SOURCES[track.media == "audio"], int(wall), int(wall % 1 * 2**32), stamp,
                             track.packets & 0xFFFFFFFF, track.octets & 0xFFFFFFFF)
        name = b"hostile"
        report += struct.pack(">BBHIBB", 0x81, 202, 4, SOURCES[track.media == "audio"], 1, len(name)) + name + bytes(3)
        if track.address:
            with suppress(OSError):
                track.sockets[1].sendto(report, (track.address[0], track.address[1] + 1))
        else:
            self.connection.writer.write(self._frame(track.channel + 1, report))

    async def _send(self, track: Track, packets: list[bytes], data: bytes) -> None:
        if track.address:
            for packet in packets:
                with suppress(OSError):
                    track.sockets[0].sendto(packet, track.address)
            return
        try:
            self.connection.writer.write(data)
            await self.connection.writer.drain()
        except OSError:
            self.end("reset")
