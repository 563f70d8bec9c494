"""What network cameras say of themselves: WS-Discovery finds them, ONVIF asks each for clock, profiles and addresses. Only questions.

The wire is onveef's (SOAP over httpx, WS-Security digest, defusedxml: no entity is expanded). A camera is somebody else's computer:
an answer has at most ANSWER_BYTES, a camera has ASK_S in all, texts are cut and lose what is not printable, numbers out of range are
unknown. The password never leaves this machine: WS-Security and HTTP get digests of it, never the plain form, and no proxy is used.
LIMIT: certificates are not verified, for cameras sign their own. Called by doctor. Loads neither PyAV nor the room.
"""

from __future__ import annotations

import fcntl
import logging
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit
from xml.etree.ElementTree import Element

import httpx
from onveef import OnvifClient, envelopes, parsers, urls, wsdiscovery
from onveef.exceptions import (
    OnvifAuthError,
    OnvifCapabilityMissingError,
    OnvifError,
    OnvifFaultError,
    OnvifOperationNotSupportedError,
    OnvifServiceUnavailableError,
    OnvifTimeoutError,
    OnvifTransportError,
)

SEARCH_S, PROBE_S = 3.0, 1.0
"""How long cameras have to answer a search (WS-Discovery lets them wait up to 0.5 s on purpose), and one camera that is probed alone."""
CALL_S, ASK_S = 4.0, 20.0
ANSWER_BYTES = 1 << 20
MOST_CAMERAS, MOST_PROFILES, MOST_TEXT = 64, 16, 60
TYPES = ("dn:NetworkVideoTransmitter", "tds:Device")
"""Asked one by one: a probe that names both finds only devices that are both (ONVIF Core 7.3.2.2; older cameras are only the first)."""
_SIOCGIFADDR = 0x8915

log = logging.getLogger(__name__)

Account = tuple[str, str]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Profile:
    """A stream that a camera offers, as configured in it. None: the camera does not say.

    `codec`: h264, h265, jpeg or the camera's own word; `gop`: frames from one key frame to the next; `constant`: constant bit rate
    (only ONVIF Media 2 tells); `sound`: the camera's word for the codec, "" without sound; `url`: without user and password.
    """

    name: str
    codec: str
    width: int | None
    height: int | None
    fps: int | None
    gop: int | None
    kbps: int | None
    constant: bool | None
    sound: str
    url: str


@dataclass(frozen=True, slots=True)
class Camera:
    """`fault`: why nothing, or not all, was learnt, in plain words; "" if all was. `clock_s`: its clock less ours, to half a second."""

    address: str
    answered: bool
    fault: str
    model: str = ""
    firmware: str = ""
    clock_s: float | None = None
    profiles: tuple[Profile, ...] = ()


def read_account(path: Path) -> Account:
    """User and password of a credentials file (one line `user:password`). ValueError in plain words if it is none."""
    try:
        user, colon, password = path.read_text(encoding="utf-8").strip().partition(":")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    if not colon or not user:
        raise ValueError(f"{path} does not hold one line user:password")
    return user, password


def own_addresses() -> list[str]:
    """The IPv4 addresses of this machine's network cards, loopback left out (ioctl SIOCGIFADDR, netdevice(7))."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):             # no IPv4 address
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]


def find(interfaces: Sequence[str], seconds: float = SEARCH_S) -> list[str]:
    """The device services (URLs) that answer a search from each of these own addresses within `seconds`; at most MOST_CAMERAS."""
    found: dict[str, str] = {}

    def search(interface: str, types: str) -> None:
        for device in wsdiscovery.discover(timeout_s=seconds, types=types, interface_ip=interface, ttl=1):
            url = next((x for x in device.xaddrs if _is_device_url(x)), "")
            if url:
                found.setdefault(device.endpoint_reference or url, url)

    _together([lambda i=i, t=t: search(i, t) for i in interfaces for t in TYPES], seconds + CALL_S)    # type: ignore[misc]
    return sorted(set(list(found.values())[:MOST_CAMERAS]))


def place(address: str, port: int = wsdiscovery.WS_DISCOVERY_PORT) -> str:
    """The device service of a camera known by `HOST` or `HOST:PORT`: what it answers to a probe (of the same host only), or the usual."""
    host, _, explicit = address.partition(":")
    if not explicit:
        for types in TYPES:
            with suppress(OSError, UnicodeError):
                for device in wsdiscovery.probe_device(host, timeout_s=PROBE_S, types=types, port=port):
                    for url in device.xaddrs:
                        if _is_device_url(url) and urlsplit(url).hostname == host:
                            return url
    return f"http://{address}/onvif/device_service"


def _is_device_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and len(url) < 300 and url.isprintable()
    except ValueError:
        return False


def ask(targets: Mapping[str, Account | None], tell: Callable[[str], None] = lambda _: None, seconds: float = ASK_S) -> list[Camera]:
    """Ask each device service (URL -> user and password), all at once, for at most `seconds`. `tell` hears of each that is done."""
    answers: dict[str, Camera] = {}

    def one(url: str, account: Account | None) -> None:
        answers[url] = _Asking(url, account).run()
        tell(f"{shown(url)} asked")

    _together([lambda u=u, a=a: one(u, a) for u, a in targets.items()], seconds)        # type: ignore[misc]
    late = "it did not finish answering in time"
    return [answers.get(url) or Camera(shown(url), False, late) for url in targets]


def shown(url: str) -> str:
    """`host` or `host:port` of a URL, for people."""
    return urlsplit(url).netloc.rpartition("@")[2].removesuffix(":80")


def _together(calls: Sequence[Callable[[], None]], seconds: float) -> None:
    """Make the calls, each in a thread, and wait for them no longer than that. A late one is left behind: it ends with the program."""
    done: queue.SimpleQueue[None] = queue.SimpleQueue()

    def make(call: Callable[[], None]) -> None:
        try:
            call()
        finally:
            done.put(None)

    for call in calls:
        threading.Thread(target=make, args=(call,), daemon=True).start()
    until = time.monotonic() + seconds
    with suppress(queue.Empty):
        for _ in calls:
            done.get(timeout=max(0.0, until - time.monotonic()))


class _Asking:
    """One camera's turn."""

    def __init__(self, url: str, account: Account | None) -> None:
        self._url, self._account = url, account
        self._fault = ""
        self._dead = False          # no use to go on asking

    def run(self) -> Camera:
        user, password = self._account or ("", "")
        with httpx.Client(trust_env=False, verify=False, timeout=CALL_S, follow_redirects=False) as http:    # noqa: S501 (LIMIT above)
            client = OnvifClient(self._url, username=user, password=password, timeout_s=CALL_S, retries=0, http_auth="digest",
                                 max_response_bytes=ANSWER_BYTES, http_client=http)
            clock_s = self._part(lambda: _clock(client))
            if self._dead:
                return Camera(shown(self._url), False, self._fault)
            self._fault = ""                    # a clock that is not told is no fault of the rest
            facts: dict[str, str] = self._part(client.get_device_information) or {}
            profiles = self._part(lambda: _profiles(client)) or ()
        answered = clock_s is not None or bool(facts or profiles) or self._fault.startswith(_WANTS)
        if not answered:
            self._fault = "something answers there, but no ONVIF that can be understood"
        return Camera(shown(self._url), answered, self._fault, plain(f"{facts.get('Manufacturer', '')} {facts.get('Model', '')}"),
                      plain(facts.get("FirmwareVersion", "")), clock_s, tuple(profiles))

    def _part(self, question: Callable[[], T]) -> T | None:
        """The answer to one question, or None and a fault. Whatever the library stumbles over was sent by the camera."""
        try:
            return question()
        except Exception as error:
            log.debug("camera answer not used error=%s", type(error).__name__)
            self._fault = self._fault or self._words(error)
            self._dead = isinstance(error, OnvifTransportError | OnvifServiceUnavailableError)
            return None

    def _words(self, error: Exception) -> str:
        match error:
            case OnvifAuthError():
                return f"{_WANTS}: it refuses those it was given" if self._account else _WANTS
            case OnvifTimeoutError():
                return "it does not answer ONVIF (no answer in time)"
            case OnvifCapabilityMissingError():
                return "it offers no media service"
            case OnvifTransportError() if "-byte cap" in str(error):
                return "it answers far more than any camera does"
            case OnvifTransportError():
                return "it does not answer ONVIF (no connection)"
            case OnvifServiceUnavailableError():
                return "it does not answer ONVIF (it says that it is not ready)"
            case OnvifError():
                return "it reports an error"
        return "it answers what cannot be understood"


_WANTS = "it wants a user and password"


def _clock(client: OnvifClient) -> float | None:
    before = time.time()
    xml = client.call(service="device", operation="GetSystemDateAndTime", body_inner=envelopes.device_get_system_date_time(),
                      require_auth=False)       # every camera tells it to anybody (ONVIF Core: access class PRE_AUTH)
    ours = (before + time.time()) / 2
    facts = parsers.parse_system_datetime(xml).get("UTCDateTime")
    if not isinstance(facts, dict):
        return None
    theirs = datetime(**facts, tzinfo=UTC).timestamp() + 0.5        # whole seconds, so on average half a second behind
    return round(theirs - ours, 1)


def _profiles(client: OnvifClient) -> tuple[Profile, ...]:
    """By Media 2 where the camera has it: it alone says H.265 rightly, and whether the bit rate is constant. Else by Media 1."""
    try:
        return _profiles_of(client, "media2")
    except (OnvifCapabilityMissingError, OnvifFaultError, OnvifOperationNotSupportedError):
        return _profiles_of(client, "media")


def _profiles_of(client: OnvifClient, service: str) -> tuple[Profile, ...]:
    second = service == "media2"
    xml = client.call(service=service, operation="GetProfiles", body_inner=envelopes.media_get_profiles(use_media2=second))
    root = parsers.parse_xml(xml)
    offered = parsers.parse_profiles(xml)[:MOST_PROFILES]
    elements = parsers.find_all_local(root, "Profiles") if root is not None else []
    found = []
    for facts, element in zip(offered, elements, strict=False):
        if isinstance(facts.get("video_encoder"), dict):
            body = envelopes.media_get_stream_uri(profile_token=str(facts.get("token", "")), use_media2=second)
            url = ""
            with suppress(OnvifError, httpx.InvalidURL):
                url = parsers.parse_stream_uri(client.call(service=service, operation="GetStreamUri", body_inner=body))
            found.append(_profile(facts, _constant(element), without_account(urls.rewrite_host(url, client.endpoint.device_xaddr))))
    return tuple(found)


def _constant(profile: Element) -> bool | None:
    """VideoRateControl2/@ConstantBitRate of onvif.xsd."""
    rate = parsers.find_local(profile, "RateControl")
    word = rate.attrib.get("ConstantBitRate", "").strip() if rate is not None else ""
    return {"true": True, "1": True, "false": False, "0": False}.get(word)


def _profile(facts: Mapping[str, Any], constant: bool | None, url: str) -> Profile:
    video, sound = facts["video_encoder"], facts.get("audio_encoder") or {}
    codec = plain(str(video.get("encoding") or "")).lower()
    return Profile(
        name=plain(str(facts.get("name") or "")), codec={"hevc": "h265", "h.264": "h264", "h.265": "h265"}.get(codec, codec),
        width=_number(video.get("width"), 16384), height=_number(video.get("height"), 16384), fps=_number(video.get("fps_limit"), 240),
        gop=_number(video.get("gop"), 100_000), kbps=_number(video.get("bitrate_kbps"), 1_000_000), constant=constant,
        sound=plain(str(sound.get("encoding") or "")), url=url)


def without_account(url: str) -> str:
    """The URL without user and password, "" if it is none that can be shown."""
    try:
        parts = urlsplit(url)
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    except ValueError:
        return ""
    return bare if bare.isprintable() and len(bare) < 300 else ""


def plain(text: str) -> str:
    """A stranger's text, safe to print: one line, nothing that steers a terminal, not long."""
    return "".join(c for c in text if c.isprintable()).strip()[:MOST_TEXT]


def _number(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 < value <= most else None
