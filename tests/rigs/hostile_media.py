"""Films and sounds for the hostile camera: made once by ffmpeg, cut into RTP payloads here. Standard library only.

Packetised by the RFCs, by nobody's library: H.264 (RFC 6184: single, STAP-A, FU-A), H.265 (RFC 7798: single, FU), AAC-hbr
(RFC 3640), G.711 and L16 (RFC 3551), Opus (RFC 7587). Each picture is known by `digest`: the first 16 hex digits of the
SHA-256 over its coded slices (no start codes, no parameter sets, no SEI), each sound packet by that of its bytes.
Read by hostile_camera.py; the tests compute the same digests from what was recorded.
"""
from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import struct
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HOME = Path(os.environ.get("EDGE_RIGS") or Path(os.environ.get("TMPDIR") or "/var/tmp") / "edge-rigs") / "hostile"
MTU = 1400
VERSION = "2"           # of the recipes: a change makes the films anew

#        codec, size, frames per second, frames per group, B-frames, seconds
FILMS = {
    "h264": ("h264", "320x180", 25, 25, 0, 24),
    "h264-b": ("h264", "320x180", 25, 25, 2, 12),
    "h264-long": ("h264", "320x180", 25, 250, 0, 20),
    "h264-tiny": ("h264", "320x180", 25, 1, 0, 4),
    "h264-small": ("h264", "192x108", 25, 25, 0, 8),
    "h264-big": ("h264", "1280x720", 25, 25, 0, 4),
    "h265": ("h265", "320x180", 25, 25, 0, 12),
    "h265-small": ("h265", "192x108", 25, 25, 0, 8),
}
#         how ffmpeg makes it, samples per second, samples per packet
SOUNDS = {
    "aac": (["-c:a", "aac", "-b:a", "64k", "-f", "adts"], 48000, 1024),
    "aac-16k": (["-c:a", "aac", "-b:a", "32k", "-f", "adts"], 16000, 1024),
    "pcma": (["-c:a", "pcm_alaw", "-f", "alaw"], 8000, 160),
    "pcmu": (["-c:a", "pcm_mulaw", "-f", "mulaw"], 8000, 160),
    "l16": (["-c:a", "pcm_s16be", "-f", "s16be"], 16000, 320),
    "opus": (["-c:a", "libopus", "-b:a", "48k", "-frame_duration", "20", "-f", "opus"], 48000, 960),
}
SOUND_S = 12


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass
class Picture:
    """One access unit. `shift`: its place on the screen less its place in the stream, in frames (B-frames are shown earlier)."""
    payloads: list[bytes]
    key: bool
    shift: int
    digest: str
    size: int


@dataclass
class Film:
    codec: str
    fps: int
    pictures: list[Picture] = field(default_factory=list)
    sets: list[bytes] = field(default_factory=list)         # SPS, PPS (H.265: VPS first)

    def set_payloads(self) -> list[bytes]:
        """The parameter sets in one STAP-A, or for H.265 one by one."""
        if self.codec == "h265":
            return self.sets
        return [b"\x78" + b"".join(struct.pack(">H", len(s)) + s for s in self.sets)]

    def sdp(self, control: str, sprop: bool) -> str:
        coded = [base64.b64encode(s).decode() for s in self.sets]
        if self.codec == "h265":
            form = ("sprop-vps={};sprop-sps={};sprop-pps={}".format(*coded) if sprop else "profile-id=1")
            name = "H265"
        else:
            form = f"packetization-mode=1;profile-level-id={self.sets[0][1:4].hex()}"
            form += f";sprop-parameter-sets={','.join(coded)}" if sprop else ""
            name = "H264"
        return (f"m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\na=fmtp:96 {form}\r\na=framerate:{self.fps}\r\n"
                f"a=control:{control}\r\n")


@dataclass
class Sound:
    name: str
    rate: int
    step: int                                               # samples per packet
    packets: list[tuple[bytes, str]] = field(default_factory=list)      # payload, digest of the coded sound
    config: str = ""

    @property
    def payload_type(self) -> int:
        return {"pcma": 8, "pcmu": 0}.get(self.name, 97)

    def sdp(self, control: str) -> str:
        pt = self.payload_type
        body = f"m=audio 0 RTP/AVP {pt}\r\n"
        if self.name.startswith("aac"):
            body += (f"a=rtpmap:{pt} mpeg4-generic/{self.rate}/1\r\na=fmtp:{pt} streamtype=5;profile-level-id=1;mode=AAC-hbr;"
                     f"sizelength=13;indexlength=3;indexdeltalength=3;config={self.config}\r\n")
        elif self.name == "opus":
            body += f"a=rtpmap:{pt} opus/48000/2\r\na=fmtp:{pt} sprop-stereo=0\r\n"
        else:
            body += f"a=rtpmap:{pt} {self.name.upper()}/{self.rate}" + ("/1" if self.name == "l16" else "") + "\r\n"
        return body + f"a=control:{control}\r\n"


# ---- making -----------------------------------------------------------------------------------------------------------

def _run(*command: object) -> str:
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, timeout=120).stdout


def _made(name: str, make) -> Path:
    """The file `name` of the cache; made under a lock if it is not there."""
    HOME.mkdir(parents=True, exist_ok=True)
    path = HOME / f"{VERSION}-{name}"
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name("part-" + path.name)
            make(part)
            part.replace(path)
    return path


def _make_film(name: str, part: Path) -> None:
    codec, size, fps, group, b_frames, seconds = FILMS[name]
    whole = part.with_suffix(".mp4")
    source = f"testsrc2=size={size}:rate={fps}:duration={seconds},noise=alls=6:allf=t:all_seed=7"
    if codec == "h264":
        coder = ["-c:v", "libx264", "-preset", "veryfast", "-x264-params", f"aud=1:scenecut=0:open-gop=0:keyint={group}:min-keyint={group}"]
    else:
        coder = ["-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params",
                 f"aud=1:scenecut=0:open-gop=0:keyint={group}:min-keyint={group}:bframes={b_frames}:log-level=error"]
    _run("ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", source, "-pix_fmt", "yuv420p", *coder, "-bf", b_frames,
         "-threads", 1, "-crf", 30, "-video_track_timescale", 90000, whole)
    shown = _run("ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "packet=pts", "-of", "csv=p=0", whole)
    pts = [int(line.strip(",")) for line in shown.split()]
    bsf, form = ("h264_mp4toannexb", "h264") if codec == "h264" else ("hevc_mp4toannexb", "hevc")
    raw = part.with_suffix(".raw")
    _run("ffmpeg", "-v", "error", "-nostdin", "-y", "-i", whole, "-c", "copy", "-bsf:v", bsf, "-f", form, raw)
    stream = raw.read_bytes()
    whole.unlink()
    raw.unlink()
    part.write_bytes(json.dumps(pts).encode() + b"\n" + stream)


def _make_sound(name: str, part: Path) -> None:
    how, rate, _ = SOUNDS[name]
    _run("ffmpeg", "-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", f"sine=f=440:r={rate}:d={SOUND_S}", "-ac", 1, "-ar", rate,
         *how, part)


# ---- reading ----------------------------------------------------------------------------------------------------------

def load_film(name: str) -> Film:
    codec, _, fps, *_ = FILMS[name]
    first, _, stream = _made(f"{name}.film", lambda part: _make_film(name, part)).read_bytes().partition(b"\n")
    pts = json.loads(first)
    film, units = Film(codec, fps), _units(codec, stream)
    step = 90000 // fps
    sets: dict[int, bytes] = {}
    kinds = (7, 8) if codec == "h264" else (32, 33, 34)
    for number, nals in enumerate(units):
        slices = [n for n in nals if is_slice(codec, n)]
        for nal in nals:
            if kind(codec, nal) in kinds:
                sets.setdefault(kind(codec, nal), nal)
        key = any(kind(codec, n) == 5 if codec == "h264" else 16 <= kind(codec, n) <= 21 for n in slices)
        kept = [n for n in nals if kind(codec, n) not in kinds]
        film.pictures.append(Picture([p for n in kept for p in split(codec, n)], key, (pts[number] - pts[0]) // step - number,
                                     digest(b"".join(slices)), sum(map(len, kept))))
    film.sets = [sets[k] for k in kinds]
    return film


def kind(codec: str, nal: bytes) -> int:
    return nal[0] & 31 if codec == "h264" else nal[0] >> 1 & 63


def is_slice(codec: str, nal: bytes) -> bool:
    return 1 <= kind(codec, nal) <= 5 if codec == "h264" else kind(codec, nal) < 32


def _units(codec: str, stream: bytes) -> list[list[bytes]]:
    """Access units as lists of NAL units; the delimiters, by which they are found, are left out."""
    delimiter, units = (9 if codec == "h264" else 35), [[]]       # x265 puts none before the first
    for nal in re.split(rb"\x00\x00\x00?\x01", stream)[1:]:
        if kind(codec, nal) == delimiter:
            units.append([])
        else:
            units[-1].append(nal)
    return [unit for unit in units if any(is_slice(codec, nal) for nal in unit)]


def split(codec: str, nal: bytes) -> list[bytes]:
    """The RTP payloads of one NAL unit: itself, or fragments."""
    if len(nal) <= MTU:
        return [nal]
    if codec == "h264":
        lead, body, head = bytes([nal[0] & 0xE0 | 28]), nal[1:], nal[0] & 31
    else:
        lead, body, head = bytes([nal[0] & 0x81 | 49 << 1, nal[1]]), nal[2:], nal[0] >> 1 & 63
    parts = [body[i:i + MTU] for i in range(0, len(body), MTU)]
    return [lead + bytes([head | 0x80 * (i == 0) | 0x40 * (i == len(parts) - 1)]) + part for i, part in enumerate(parts)]


def load_sound(name: str) -> Sound:
    _, rate, step = SOUNDS[name]
    data = _made(f"{name}.sound", lambda part: _make_sound(name, part)).read_bytes()
    sound = Sound(name, rate, step)
    if name.startswith("aac"):
        index = data[2] >> 2 & 15
        sound.config = struct.pack(">H", 2 << 11 | index << 7 | 1 << 3).hex()
        for coded in _adts(data):
            sound.packets.append((struct.pack(">HH", 16, len(coded) << 3) + coded, digest(coded)))
    elif name == "opus":
        sound.packets = [(packet, digest(packet)) for packet in _ogg(data)[2:]]
    else:
        size = step * (2 if name == "l16" else 1)
        sound.packets = [(data[i:i + size], digest(data[i:i + size])) for i in range(0, len(data) - size + 1, size)]
    return sound


def _adts(data: bytes) -> list[bytes]:
    frames, at = [], 0
    while at + 7 <= len(data):
        length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
        frames.append(data[at + (7 if data[at + 1] & 1 else 9):at + length])
        at += length
    return frames


def _ogg(data: bytes) -> list[bytes]:
    """The packets of an Ogg file with one stream (RFC 3533)."""
    packets, part, at = [], b"", 0
    while data[at:at + 4] == b"OggS":
        count = data[at + 26]
        lacing, at = data[at + 27:at + 27 + count], at + 27 + count
        for size in lacing:
            part, at = part + data[at:at + size], at + size
            if size < 255:
                packets.append(part)
                part = b""
    return packets
