"""`edge doctor reader`: is the ID-card reader there, does it answer, at which rate, which module, and how long does a card take.

Changes nothing in the reader (its bit rate is found, never set). It needs the reader for itself: while the room runs it says who has
it, and no more. Of a card it prints what is masked. Called by `edge doctor reader`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from edge.clock import SystemClock
from edge.config import ReaderSection
from edge.idcheck.trial import Look, look

SERIAL = Path("/dev/serial/by-path")
USB = Path("/sys/bus/usb/devices")
LOCKS = Path("/proc/locks")
KNOWN = {"1a86:7523": "serial bridge CH340", "10c4:ea60": "serial bridge CP210x", "067b:2303": "serial bridge PL2303",
         "0403:6001": "serial bridge FT232", "0400:c35a": "USB reader: set reader.usb"}
FAULTS = {
    "absent": "there is no such device: is the plug in, and in the marked socket? Does the udev rule name that socket?",
    "gone": "it cannot be used: pull the plug, put it back, and look again",
    "denied": "no permission: run this as root or as user edge; the udev rule gives the device to group dialout",
    "busy": "another program has it",
    "no-driver": "libusb cannot be used: apt-get install libusb-1.0-0; inside the room's unit it needs the drop-in of hardware/README.md",
    "silent": "the port is there, but nothing answers at any bit rate: is it the reader's port, has the reader power?",
    "garbled": "what comes makes no sense at any bit rate: another cable; is it the reader's port?",
    "self-test-failed": "its security module says that it is defective: another reader",
    "not-authorised": "its security module is not authorised: another reader",
}
NAMES = {"status": "status", "find": "find", "select": "select", "read": "read text and photo",
         "address": "appended address", "number": "management number"}
GOOD = ("ok", "found", "no-such-item")


def doctor_reader(section: ReaderSection, seconds: float, allow_demo: bool, as_json: bool) -> int:
    """Look, print, and return 0 (the reader answers, and a card was read unless `seconds` is 0) or 1 (there is something to set).
    What goes on is told on standard error."""
    port = section.wire()
    print(f"doctor: opening {port.name}", file=sys.stderr, flush=True)
    found = asyncio.run(look(port, SystemClock(), seconds, allow_demo, lambda text: print(f"doctor: {text}", file=sys.stderr, flush=True)))
    holder = _holder(section.port) if found.fault == "busy" and section.usb is None else ""
    advice = list(_advice(found, seconds, holder))
    around = list(_around()) if found.fault in ("absent", "silent", "garbled") else []
    if as_json:
        facts = dataclasses.asdict(found) | {"set": advice, "holder": holder, "plugged_in": around}
        print(json.dumps({"ok": not advice} | facts, ensure_ascii=False))
    else:
        print("\n".join(_text(found, advice, seconds > 0, around)))
    return 1 if advice else 0


def _text(found: Look, advice: list[str], with_card: bool, around: list[str]) -> Iterator[str]:
    yield f"Reader at {found.port}"
    if found.rate:
        yield f"  answers at {found.rate} bit/s" + ("" if found.rate == found.configured else f", not at {found.configured} as configured")
    if found.module:
        yield f"  module {found.module}"
    for step in found.steps:
        yield f"  {NAMES[step.name]:<22}{step.ms:>6} ms  {step.word}"
    if found.card:
        yield f"  card: {found.card}"
    for line in advice:
        yield f"  SET  {line}"
    for line in around:
        yield f"  plugged in: {line}"
    if not advice:
        yield "All good." if with_card else "The reader answers. No card was asked for."


def _advice(found: Look, seconds: float, holder: str) -> Iterator[str]:
    """What somebody has to do, in plain words."""
    if found.fault == "busy":
        if holder.startswith("edge room"):
            yield (f"{holder} has the reader. That is right while the room runs: its pages show the reader's state. To look at the reader "
                   "here, stop the room first (systemctl stop edge); recording goes on")
        else:
            yield f"{holder or 'another program'} has the reader. The room cannot use it either: stop that program"
        return
    if found.fault:
        yield FAULTS[found.fault]
        return
    if found.rate != found.configured:
        yield (f"the configuration: reader.baud = {found.rate}. The room finds the rate by itself, but after each start the reader is red "
               "for some seconds")
    if found.noise:
        yield f"{found.noise} bytes of noise on the line: another cable, away from power leads"
    if found.card_fault == "demo":
        yield "the card is an invented one of a demo; a real room does not take it"
    elif found.card_fault:
        yield f"the card was not read ({_failed(found)}): lay it flat and still; try another card"
    elif not found.card and seconds > 0:
        yield "no card was seen: lay one down flat within the time; if one lay there all the while, lift it and lay it down again"


def _failed(found: Look) -> str:
    """Which step failed and how; or what is wrong in what was read."""
    bad = next((step for step in found.steps if step.name in ("select", "read") and step.word not in GOOD), None)
    return f"{NAMES[bad.name]}: {bad.word}" if bad else found.card_fault


def _holder(port: Path) -> str:
    """Who has locked this tty, as `edge room (process 123)`; "" if that cannot be seen. Source: proc_locks(5)."""
    with suppress(OSError):
        node = port.stat()
        key = f"{os.major(node.st_dev):02x}:{os.minor(node.st_dev):02x}:{node.st_ino}"
        for line in LOCKS.read_text(encoding="ascii").splitlines():
            words = line.split()
            if "FLOCK" in words and key in words:
                pid = words[words.index(key) - 1]
                argv = Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace").split("\0")
                at = argv.index("edge") if "edge" in argv[:-1] else -1
                name = f"edge {argv[at + 1]}" if at >= 0 else Path(argv[0]).name
                return f"{name} (process {pid})"
    return ""


def _around() -> Iterator[str]:
    """What is plugged in and could be a reader."""
    with suppress(OSError):
        for name in sorted(SERIAL.iterdir()):
            yield f"{name} -> {name.resolve()}"
    for device in sorted(USB.glob("*")):
        with suppress(OSError):
            ids = ":".join((device / part).read_text(encoding="ascii").strip() for part in ("idVendor", "idProduct"))
            if ids in KNOWN:
                yield f"{ids} in USB socket {device.name} ({KNOWN[ids]})"
