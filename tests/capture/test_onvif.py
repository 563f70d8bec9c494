"""Cameras are found and asked over real UDP and real HTTP; hostile ones cost a line of text, never the look at the others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.capture import onvif
from edge.capture.onvif import Camera, Profile

RIG = Path(__file__).parents[1] / "rigs" / "onvif_device.py"


class Device:
    """One simulated camera, a process of its own."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen([sys.executable, RIG, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.http, self.udp = map(int, self._process.stdout.readline().split()[1:])
        self.url = f"http://127.0.0.1:{self.http}/onvif/device_service"

    def close(self) -> str:
        """What it said on standard error."""
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.communicate(timeout=10)[1] if self._process.stdout and not self._process.stdout.closed else ""


@pytest.fixture
def device() -> Iterator[Callable[..., Device]]:
    started: list[Device] = []

    def start(*options: str) -> Device:
        started.append(Device(*options))
        return started[-1]

    yield start
    for each in started:
        each.close()


def ask(device: Device, account: onvif.Account | None = None, seconds: float = 15.0) -> Camera:
    return onvif.ask({device.url: account}, seconds=seconds)[0]


def test_a_search_finds_cameras_of_either_type(device: Callable[..., Device]) -> None:
    old, new = device("--multicast"), device("--multicast", "--types", "Device NetworkVideoTransmitter")
    assert {old.url, new.url} <= set(onvif.find(["127.0.0.1"], 0.8))


def test_a_search_outlives_a_bomb_and_an_address_that_is_none(device: Callable[..., Device]) -> None:
    bomb, odd = device("--multicast", "--fault", "bomb"), device("--multicast", "--xaddr", "http://[::1/ rtsp://127.0.0.1/ http://:0/")
    found = onvif.find(["127.0.0.1", "192.0.2.254"], 0.8)       # the second address is none of ours
    assert bomb.url in found and odd.url not in found
    assert all(url.startswith("http://127.0.0.1:") for url in found)


def test_one_camera_is_probed_alone(device: Callable[..., Device]) -> None:
    camera = device()
    assert onvif.place("127.0.0.1", camera.udp) == camera.url
    assert onvif.place("127.0.0.1:81") == "http://127.0.0.1:81/onvif/device_service"


def test_a_probed_camera_cannot_send_us_to_another_host(device: Callable[..., Device]) -> None:
    camera = device("--xaddr", "http://192.0.2.7/onvif/device_service")
    assert onvif.place("127.0.0.1", camera.udp) == "http://127.0.0.1/onvif/device_service"


@pytest.mark.parametrize(("media", "codec", "constant"), [("1", "h264", None), ("2", "h265", False), ("both", "h264", True)])
def test_profiles_are_told(device: Callable[..., Device], media: str, codec: str, constant: bool | None) -> None:
    rate = {None: [], True: ["--constant"], False: ["--no-constant"]}[constant]
    camera = ask(device("--media", media, "--codec", codec.upper(), *rate, "--sound", "G711", "--gop", "50",
                        "--rtsp", "rtsp://room:secret@127.0.0.1:8554/cam1"))
    assert (camera.answered, camera.fault, camera.model, camera.firmware) == (True, "", "Example M1", "1.2.3")
    main, sub = camera.profiles
    gop = None if media == "1" and codec != "h264" else 50
    assert main == Profile("Main stream", codec, 1920, 1080, 25, gop, 4096, constant, "G711", "rtsp://127.0.0.1:8554/cam1")
    assert (sub.codec, sub.width, sub.url) == ("jpeg", 640, "rtsp://127.0.0.1:8554/cam1-sub")


def test_a_camera_whose_clock_is_wrong_is_asked_by_its_own_clock(device: Callable[..., Device]) -> None:
    camera = ask(device("--auth", "room:a:b/c@d", "--clock", "-7200"), ("room", "a:b/c@d"))
    assert camera.fault == "" and len(camera.profiles) == 2
    assert camera.clock_s is not None and -7202 < camera.clock_s < -7198


@pytest.mark.parametrize("refusal", [[], ["--plain-401"]])
def test_the_password_never_goes_out_in_the_clear(device: Callable[..., Device], refusal: list[str]) -> None:
    camera = device("--auth", "room:right", *refusal)
    assert ask(camera).fault == "it wants a user and password"
    assert "refuses those it was given" in ask(camera, ("room", "wrong")).fault
    assert ask(camera, ("room", "right")).fault == ""
    assert camera.close() == ""


def test_a_camera_that_names_an_address_of_its_own_is_asked_where_it_was_reached(device: Callable[..., Device],
                                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")          # nobody listens there
    camera = ask(device("--claim", "http://192.0.2.9:8080", "--rtsp", "rtsp://192.0.2.9:8554/cam1"))
    assert [p.url for p in camera.profiles] == ["rtsp://127.0.0.1:8554/cam1", "rtsp://127.0.0.1:8554/cam1-sub"]


@pytest.mark.parametrize(("fault", "word"), [
    ("huge", "far more"), ("bomb", "no ONVIF"), ("garbage", "no ONVIF"), ("html", "no ONVIF"), ("unavailable", "not ready"),
    ("silent", "in time"), ("drip", "in time")])
def test_a_hostile_camera_is_a_line_and_does_not_hide_the_good_one(device: Callable[..., Device], fault: str, word: str) -> None:
    bad, good = device("--fault", fault), device()
    first, second = onvif.ask({bad.url: ("room", "x"), good.url: None}, seconds=1.2)
    assert not first.answered and word in first.fault and first.profiles == ()
    assert second.answered and second.fault == ""


def test_a_camera_without_media_says_so(device: Callable[..., Device]) -> None:
    camera = ask(device("--fault", "no-media"))
    assert camera.answered and camera.fault == "it offers no media service" and camera.clock_s is not None


def test_words_for_numbers_and_steering_characters_do_not_come_through(device: Callable[..., Device]) -> None:
    for media in ("1", "2"):
        camera = ask(device("--fault", "wrong", "--media", media))
        assert camera.clock_s is None, "the year 99999"
        assert camera.model.isprintable() and len(camera.model) <= onvif.MOST_TEXT
        assert all((p.width, p.gop, p.kbps, p.fps) == (None, None, None, None) for p in camera.profiles)


def test_spoilt_answers_never_raise(device: Callable[..., Device]) -> None:
    cameras = {media: device("--fault", "fuzz", "--media", media) for media in ("1", "2")}
    seen = [ask(cameras[media]) for _ in range(25) for media in cameras]
    assert any(c.profiles for c in seen) and any(c.fault for c in seen), "some are read, some are not"
    for camera in seen:
        for text in (camera.model, camera.firmware, *(t for p in camera.profiles for t in (p.name, p.codec, p.sound, p.url))):
            assert text.isprintable() and len(text) < 300


def test_nobody_there_is_a_line() -> None:
    camera = onvif.ask({"http://127.0.0.1:9/onvif/device_service": None})[0]
    assert camera == Camera("127.0.0.1:9", False, "it does not answer ONVIF (no connection)")


@pytest.mark.parametrize(("text", "account"), [
    ("room:a:b/c@d\n", ("room", "a:b/c@d")), ("room:", ("room", "")), ("room", None), (":x", None)])
def test_an_account_is_one_line(tmp_path: Path, text: str, account: onvif.Account | None) -> None:
    file = tmp_path / "account"
    file.write_text(text)
    if account:
        assert onvif.read_account(file) == account
    else:
        with pytest.raises(ValueError, match="user:password"):
            onvif.read_account(file)
    with pytest.raises(ValueError, match="cannot be read"):
        onvif.read_account(tmp_path / "none")


def test_our_own_addresses_are_addresses() -> None:
    assert all(address.count(".") == 3 and not address.startswith("127.") for address in onvif.own_addresses())
