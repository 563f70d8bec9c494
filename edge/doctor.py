"""`edge doctor cameras`: finds the cameras, asks each over ONVIF, looks at what really arrives, and says in plain words what to set.

What a camera says of itself and what it sends are judged by the same few rules, each with its reason in the text. Nothing is changed
in a camera. It never opens a stream that a worker is recording, never prints a password, and a camera that does not answer is a line,
not a failure. Called by `edge doctor cameras`. The room loads none of this.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge import status
from edge.capture import onvif, trial
from edge.capture.onvif import Account, Camera, Profile
from edge.capture.streams import StreamSpec
from edge.capture.trial import Arrival
from edge.clock import US, iso_utc
from edge.config import Config

GOP_S, GOP_MOST_S = 1.0, 2.0
"""A segment begins at a key frame and the live picture waits for one: 1 s keeps both close; from 2 s on proctors see too late."""
TOLERANCE = 1.05
"""Frames come unevenly: a key frame every 1.03 s is one every second."""
CLOCK_S = 3.0
"""The camera writes its clock into the picture; auditors compare it with the room's."""
UNEVEN = 1.5
"""A longest time between key frames of so many times the shortest is what a "smart codec" makes of a quiet picture."""
SMART = '"smart codec" (H.264+, H.265+, Smart264, Zipstream …)'
SLOW_MS = 4000
GOOD_SOUND = ("aac", "mp4a-latm", "mpeg4-generic", "g711", "pcmu", "pcma", "pcm_alaw", "pcm_mulaw")
NAMES = {"h264": "H.264", "h265": "H.265", "pcm_alaw": "G.711 (A-law)", "pcm_mulaw": "G.711 (µ-law)", "aac": "AAC", "pcmu": "G.711 (µ-law)",
         "pcma": "G.711 (A-law)", "g711": "G.711", "mp4a-latm": "AAC", "mpeg4-generic": "AAC", "opus": "Opus"}
FAULTS = {
    "password-refused": "the camera refuses the user or password of its credentials file; put the right ones there",
    "credentials-unreadable": "its credentials file cannot be read, or does not hold one line user:password",
    "no-address": "its url is no rtsp address",
    "no-h264-picture": "it sends no picture that can be recorded; set H.264 in the camera",
    "not-found": "the camera knows no such path; compare its url with the addresses that ONVIF tells",
    "refused": "nothing listens there: is RTSP switched on in the camera, and the port right?",
    "unreachable": "there is no way to that address: cable, switch, address of this PC",
    "no-answer": "nothing answers there: is the camera switched on, the address right?",
    "cannot-connect": "no connection comes about",
    "frozen": "the connection is there, but no picture comes",
    "busy": "a worker is recording it now and has sealed no segment yet; ask again in a minute",
    "not-allowed": "its footage folder belongs to another user; run this as user edge",
    "stuck": "the look at it did not end and was broken off",
}


@dataclass(frozen=True, slots=True)
class Advice:
    """`to_set`: somebody has to do something about it; else good to know."""

    to_set: bool
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found: the judged cameras and streams, and their advice."""

    clock: status.ClockReading
    cameras: tuple[tuple[Camera, tuple[Advice, ...]], ...]
    streams: tuple[tuple[StreamSpec, Arrival, tuple[Advice, ...]], ...]

    @property
    def to_set(self) -> int:
        return sum(a.to_set for advice in [c[1] for c in self.cameras] + [s[2] for s in self.streams] for a in advice)

    @property
    def ok(self) -> bool:
        return self.to_set == 0 and bool(self.streams or any(camera.answered for camera, _ in self.cameras))


def doctor_cameras(config: Config | None, addresses: Sequence[str], account: Account | None, as_json: bool) -> int:
    """Look, print, and return 0 (all good) or 1 (something to set, or no camera at all). What goes on is told on standard error."""
    specs = [s for s in config.specs() if s.kind == "rtsp"] if config else []
    report = examine(specs, addresses, account, config, lambda text: print(f"doctor: {text}", file=sys.stderr, flush=True))
    print(json.dumps(as_dict(report), ensure_ascii=False) if as_json else "\n".join(as_text(report)))
    return 0 if report.ok else 1


def examine(specs: Sequence[StreamSpec], addresses: Sequence[str], account: Account | None, config: Config | None,
            tell: Callable[[str], None]) -> Report:
    """Ask the cameras named (or else searched for) and those of the configured streams; look at the configured streams."""
    known = {host: own for spec in specs if (host := _host(spec.url)) for own in [_account(spec)]}
    if addresses:
        urls = _places(addresses)
    else:
        own = onvif.own_addresses()
        tell(f"searching for cameras from {', '.join(own) or 'no network at all'} ({onvif.SEARCH_S:.0f} s)")
        urls = onvif.find(own)
    asked = {_host(url) for url in urls}
    urls += _places([host for host in known if host not in asked])
    tell(f"asking {len(urls)} over ONVIF: {', '.join(map(onvif.shown, urls)) or 'none'}")
    # a found camera gets the password of the stream that is recorded from it, or the one given for this look
    cameras = onvif.ask({url: known.get(_host(url)) or account for url in urls}, tell)
    arrivals: list[Arrival] = []
    if config is not None and specs:
        tell(f"looking at {', '.join(s.id for s in specs)} (up to {trial.MOST_S:.0f} s)")
        with ThreadPoolExecutor(len(specs)) as pool:
            arrivals = list(pool.map(lambda spec: trial.look(spec, config.paths.footage), specs))
    return Report(status.probe_clock(), tuple((c, tuple(advise_camera(c, specs))) for c in cameras),
                  tuple((s, a, tuple(advise_arrival(a))) for s, a in zip(specs, arrivals, strict=True)))


def _places(addresses: Sequence[str]) -> list[str]:
    with ThreadPoolExecutor(max(1, len(addresses))) as pool:
        return list(dict.fromkeys(pool.map(onvif.place, addresses)))


def _host(url: str | None) -> str:
    return urlsplit(url or "").hostname or ""


def _account(spec: StreamSpec) -> Account | None:
    try:
        return onvif.read_account(spec.credentials) if spec.credentials else None
    except ValueError:
        return None             # the look at the stream says so


# ---- the rules ----------------------------------------------------------------------------------------------------------------

def advise_camera(camera: Camera, specs: Sequence[StreamSpec]) -> Iterator[Advice]:
    """What to set in a camera: its clock, and the profiles that are recorded (where none is configured: the largest)."""
    if camera.fault:
        wants = "; name a file with user:password by --credentials" if camera.fault.endswith("user and password") else ""
        yield Advice("refuses" in camera.fault, f"{camera.fault}{wants}")
    if camera.clock_s is not None and abs(camera.clock_s) > CLOCK_S:
        yield Advice(True, f"clock: set the site's time server in it; it is {_ahead(camera.clock_s)} this PC and stands in the picture")
    for profile in judged(camera, specs):
        for advice in advise_profile(profile):
            yield Advice(advice.to_set, f"{profile.name or 'profile'}: {advice.text}")
    if camera.profiles:
        yield Advice(False, f"ONVIF does not tell of a {SMART}: switch it off on the camera's own page")


def judged(camera: Camera, specs: Sequence[StreamSpec]) -> list[Profile]:
    """The profiles that the configuration records; else the one with the largest picture."""
    recorded = [p for p in camera.profiles if recorded_as(p, specs)]
    return recorded or sorted(camera.profiles, key=lambda p: p.width or 0, reverse=True)[:1]


def recorded_as(profile: Profile, specs: Iterable[StreamSpec]) -> str:
    """The id of the configured stream that has the profile's address; "" if none has."""
    def key(url: str | None) -> tuple[object, ...]:
        parts = urlsplit(url or "")
        return parts.hostname, parts.port or 554, parts.path.rstrip("/"), parts.query

    return next((s.id for s in specs if profile.url and key(s.url) == key(profile.url)), "")


def advise_profile(profile: Profile) -> Iterator[Advice]:
    """By what the camera says of its settings."""
    yield from _advise_codec(profile.codec)
    gop_s = profile.gop / profile.fps if profile.gop and profile.fps else None
    if gop_s is not None and gop_s > GOP_MOST_S * TOLERANCE:
        yield Advice(True, f"key frame interval (GOP, I-frame interval): set {profile.fps} frames (1 s; 2 s at most); it is {gop_s:.1f} s")
    elif gop_s is not None and gop_s > GOP_S * TOLERANCE:
        yield Advice(False, f"a key frame every {gop_s:.1f} s; every second is better: set {profile.fps} frames")
    if profile.constant is False:
        yield Advice(True, "bit rate: set constant (CBR); with a variable one a quiet room hides how much disk an exam takes")
    elif profile.constant is None:
        yield Advice(False, "this camera does not tell over ONVIF whether its bit rate is constant; on its own page it should be (CBR)")
    yield from _advise_sound(profile.sound)


def advise_arrival(arrival: Arrival) -> Iterator[Advice]:
    """By what came."""
    if arrival.how == "nothing":
        yield Advice(arrival.fault != "busy", FAULTS.get(arrival.fault, f"it cannot be opened ({arrival.fault})"))
        return
    yield from _advise_codec(arrival.codec)
    longest, shortest = arrival.gop_max_ms, arrival.gop_min_ms
    if longest is None:
        yield Advice(True, "no key frame came at all: set the key frame interval (GOP) to one second")
    elif longest > GOP_MOST_S * TOLERANCE * 1000:
        if shortest is not None and longest > shortest * UNEVEN:
            yield Advice(True, f"key frames come {shortest / 1000:.1f} to {longest / 1000:.1f} s apart: switch off the camera's {SMART}, "
                               "and set one a second")
        else:
            yield Advice(True, f"key frames come {longest / 1000:.1f} s apart: set one a second (2 s at most)")
    elif longest > GOP_S * TOLERANCE * 1000:
        yield Advice(False, f"key frames come {longest / 1000:.1f} s apart; one a second is better")
    if arrival.b_frames:
        yield Advice(False, "it sends B-frames: recorded rightly, but without them the live picture comes sooner")
    if arrival.first_picture_ms is not None and arrival.first_picture_ms > SLOW_MS:
        yield Advice(False, f"its first picture took {arrival.first_picture_ms / 1000:.1f} s: so much is missing after each reconnect")
    yield from _advise_sound(arrival.sound)


def _advise_codec(codec: str) -> Iterator[Advice]:
    if codec == "h265":
        yield Advice(True, "picture: set H.264; H.265 is recorded too, but not every browser plays it")
    elif codec != "h264":
        yield Advice(True, f"picture: set H.264; {NAMES.get(codec, codec or 'what it sends')} is not recorded")


def _advise_sound(sound: str) -> Iterator[Advice]:
    if not sound:
        yield Advice(False, "no sound; if the camera has a microphone, switch it on (AAC or G.711)")
    elif sound.lower() not in GOOD_SOUND:
        yield Advice(True, f"sound: set AAC or G.711; it is {NAMES.get(sound.lower(), sound)}")


def _ahead(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'}"


# ---- the print ----------------------------------------------------------------------------------------------------------------

def as_text(report: Report) -> Iterator[str]:
    """The report for people, line by line."""
    clock = report.clock
    yield f"Clock of this PC: {clock.state} (says {clock.source}), within {clock.max_error_us / US:.3f} s"
    for camera, advice in report.cameras:
        yield f"\nCamera {camera.address}  {camera.model}{f', firmware {camera.firmware}' if camera.firmware else ''}".rstrip()
        if camera.clock_s is not None:
            yield f"  clock: {_ahead(camera.clock_s)} this PC"
        for profile in camera.profiles:
            stream = recorded_as(profile, [s for s, *_ in report.streams])
            yield f"  {profile.name or 'profile'}: {describe(profile)}"
            yield f"    {profile.url or 'no address told'}{f'  (recorded as {stream})' if stream else ''}"
        yield from _advice(advice)
    for spec, arrival, advice in report.streams:
        yield f"\nStream {spec.id}  {onvif.without_account(spec.url or '')}"
        if arrival.how != "nothing":
            yield f"  {describe_arrival(arrival)}"
        yield from _advice(advice)
    yield ""
    if report.to_set:
        yield f"{report.to_set} to set (lines with SET). Nothing was changed in any camera."
    elif report.ok:
        yield "All good."
    else:
        yield ("No camera answered. Are they switched on and in this network? Name one by --address HOST, for a search does not cross a "
               "router. Nothing was changed.")


def _advice(advice: Sequence[Advice]) -> Iterator[str]:
    for each in sorted(advice, key=lambda a: not a.to_set):
        yield f"  {'SET ' if each.to_set else 'note'} {each.text}"
    if not any(a.to_set for a in advice):
        yield "  nothing to set"


def describe(profile: Profile) -> str:
    """A profile's settings in a line."""
    gop = f"GOP {profile.gop}" + (f" ({profile.gop / profile.fps:.1f} s)" if profile.fps else "") if profile.gop else "GOP not told"
    rate = f"{profile.kbps or '?'} kbit/s" + {True: " constant", False: " variable", None: ""}[profile.constant]
    size, sound = f"{profile.width or '?'}x{profile.height or '?'}", NAMES.get(profile.sound.lower(), profile.sound) or "none"
    return f"{NAMES.get(profile.codec, profile.codec or '?')} {size}, {profile.fps or '?'} fps, {gop}, {rate}, sound {sound}"


def describe_arrival(arrival: Arrival) -> str:
    """What came, in a line."""
    gop = "?" if arrival.gop_max_ms is None else f"{arrival.gop_max_ms / 1000:.1f}"
    facts = [f"{NAMES.get(arrival.codec, arrival.codec)} {arrival.width}x{arrival.height}", f"{arrival.fps_x100 / 100:.1f} fps",
             f"a key frame every {gop} s at most", f"{arrival.kbps} kbit/s", f"sound {NAMES.get(arrival.sound, arrival.sound) or 'none'}"]
    if arrival.how == "recorded":
        return ", ".join(facts) + f"  (being recorded now, so not opened again: segment of {iso_utc(arrival.utc_us)})"
    facts.append("B-frames" if arrival.b_frames else "no B-frames")
    facts.append("no key frame" if arrival.first_picture_ms is None else f"first picture after {arrival.first_picture_ms / 1000:.1f} s")
    return ", ".join(facts)


def as_dict(report: Report) -> dict[str, Any]:
    """The report as one JSON object."""
    def with_advice(facts: dict[str, Any], advice: Sequence[Advice]) -> dict[str, Any]:
        return facts | {"set": [a.text for a in advice if a.to_set], "notes": [a.text for a in advice if not a.to_set]}

    return {
        "ok": report.ok, "clock": dataclasses.asdict(report.clock),
        "cameras": [with_advice(dataclasses.asdict(camera), advice) for camera, advice in report.cameras],
        "streams": [with_advice(dataclasses.asdict(arrival) | {"url": onvif.without_account(spec.url or "")}, advice)
                    for spec, arrival, advice in report.streams]}
