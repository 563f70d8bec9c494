"""The seam between us and a sound card: one set of promises, kept by both drivers, on a real sound path (PulseAudio behind PortAudio)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edge.capture.microphone import Listener
from edge.capture.portaudio import BLOCK_S, DRIVERS, Block, boot_us, pick
from edge.capture.streams import SourceFault
from edge.clock import US
from tests.capture.conftest import sound_card, tone  # noqa: F401 (fixtures: the rig's sound server, and a tone in its loudspeaker)

RATE = 16000


Listeners = dict[str, Listener]


@pytest.fixture
def opened(sound_card: Path) -> Iterator[Callable[..., Listeners]]:  # noqa: F811
    """Opens the same microphone by every driver: the default one, or that of a name."""
    every: list[Listener] = []

    def make(name: str | None = None) -> Listeners:
        made = {driver: Listener(driver, RATE, name) for driver in sorted(DRIVERS)}
        every.extend(made.values())
        return made

    yield make
    for each in every:
        each.close()


def listen(listeners: Listeners, seconds: float) -> dict[str, list[Block]]:
    """Blocks for so much sound, by every driver at the same time."""

    def one(listener: Listener) -> list[Block]:
        return [listener.next() for _ in range(round(seconds / BLOCK_S))]

    with ThreadPoolExecutor() as pool:
        return dict(zip(listeners, pool.map(one, listeners.values()), strict=True))


def test_the_tone_in_the_room_is_heard(opened: Callable[..., Listeners], tone: None) -> None:  # noqa: F811
    listeners = opened()
    listen(listeners, 1.0)              # the player takes a moment
    for driver, blocks in listen(listeners, 1).items():
        heard = np.frombuffer(b"".join(block.data for block in blocks), dtype=np.int16)
        strength = np.abs(np.fft.rfft(heard * np.hanning(RATE)))
        assert np.argmax(strength) == 440, driver
        assert strength[440] > 20 * strength[600:].max(), f"{driver}: it is a tone, no noise"
        assert np.abs(heard).max() > 1000, driver


def test_silence_comes_in_real_time_and_each_block_says_when(opened: Callable[..., Listeners]) -> None:
    listeners = opened("defau")         # a part of its name
    for driver, blocks in listen(listeners, 2.4).items():
        assert [block.opened for block in blocks] == [True] + [False] * (len(blocks) - 1), driver
        assert not any(any(block.data) for block in blocks), driver
        assert not any(block.overflowed for block in blocks), driver
        ends = np.array([block.ended_us for block in blocks[10:]]) / US     # a sound server begins with a lump
        assert abs(boot_us() / US - ends[-1]) < 0.3, f"{driver}: it is of now"
        slope, start = np.polyfit(np.arange(len(ends)), ends, 1)
        assert slope == pytest.approx(BLOCK_S, rel=0.02), f"{driver}: 1.000 of real time"
        assert np.abs(ends - (start + slope * np.arange(len(ends)))).max() < 0.08, driver
    for listener in listeners.values():     # the unit is told to stop: its worker decides when the sound ends, by letting go of stdin
        listener._program.send_signal(signal.SIGTERM)
    assert all(listen(listeners, 0.2).values())
    for listener in listeners.values():
        assert listener._program.stdin is not None
        listener._program.stdin.close()
        assert listener._program.wait(2) == 0


def test_an_unknown_name_is_refused(opened: Callable[..., Listeners]) -> None:
    for listener in opened("no such card").values():
        with pytest.raises(SourceFault) as refusal:
            listener.next()
        assert (refusal.value.end_reason, refusal.value.reason) == ("device-lost", "no-microphone")


@pytest.mark.parametrize("how", [pytest.param(signal.SIGSTOP, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_card_that_dies_is_noticed_within_five_seconds(
        opened: Callable[..., Listeners], sound_card: Path, how: signal.Signals) -> None:  # noqa: F811
    """By the age of the last block: with a dead sound server behind them both drivers hang, in whichever call comes next."""
    listeners = opened()
    listen(listeners, 0.5)
    server = server_of(sound_card)
    os.kill(server, how)
    died = time.monotonic()
    try:
        with pytest.raises(SourceFault) as fault:
            listen(listeners, 30)       # raises when every driver has failed
        assert time.monotonic() - died <= 5
        assert fault.value.end_reason == "device-lost"
        assert fault.value.reason in ("silent-card", "microphone-gone")
        for listener in listeners.values():
            listener.close()            # whatever the driver hangs in
        assert time.monotonic() - died <= 6
    finally:
        if how == signal.SIGSTOP:
            os.kill(server, signal.SIGCONT)


def server_of(folder: Path) -> int:
    """The pulseaudio below the rig's `timeout`."""
    shell = (folder / "pid").read_text().strip()
    return int(subprocess.run(["pgrep", "-P", shell], capture_output=True, text=True, check=True).stdout.split()[0])


@pytest.mark.parametrize(("wanted", "number"), [("0", 0), ("7", 7), ("USB PnP", 7), ("usb pnp sound", 7), ("default", 0), ("hw:2,0", 9)])
def test_a_device_is_picked_by_number_or_name(wanted: str, number: int) -> None:
    names = {0: "default", 3: "default (old)", 7: "USB PnP Sound: Audio (hw:1,0)", 9: "HDA: ALC (hw:2,0)"}
    assert pick(names, wanted) == number


@pytest.mark.parametrize(("wanted", "reason"), [("hw:", "several-microphones"), ("Blue Yeti", "no-microphone"), ("4", "no-microphone")])
def test_a_name_that_fits_none_or_several_is_refused(wanted: str, reason: str) -> None:
    with pytest.raises(SourceFault) as refusal:
        pick({0: "default", 7: "USB (hw:1,0)", 9: "HDA (hw:2,0)"}, wanted)
    assert refusal.value.reason == reason


