#!/usr/bin/env python3
"""An ID-card reader on a real USB bus: the kernel's virtual host controller (vhci-hcd) with the simulator's module at its far end.

The kernel enumerates it, libusb opens it, PyUSB talks to it: as with a reader that is plugged in, but for the electricity. Run as a
program it prints each fact as a line of JSON; tests/idcheck/test_usb_vm.py runs it in room-vm and judges.

    usbip_reader.py scenario one-pair|split    our port and our driver on it, with cards, half an answer, and the plug
    usbip_reader.py stand one-pair|split       only be there, with a card on it, until killed
    usbip_reader.py visit                      one look at the reader that is there (without the rights that the others need)

Needs root, vhci-hcd, libusb, and PyUSB and this project on PYTHONPATH.
Source of the protocol: Documentation/usb/usbip_protocol.rst of the kernel.
LIMIT: the control requests that enumeration and libusb use, and bulk transfers.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import struct
import sys
from collections import deque
from pathlib import Path

from edge.clock import SystemClock
from edge.idcheck import card
from edge.idcheck.port import PortLost
from edge.idcheck.reader import CardSeen, Reader
from edge.idcheck.trial import look
from edge.idcheck.usb import UsbPort
from edge.sim import people
from edge.sim.card_module import Module

VHCI = Path("/sys/devices/platform/vhci_hcd.0")
ONE_PAIR, SPLIT = (0x01, 0x82), (0x02, 0x06, 0x81, 0x85)
PACKET, FULL_SPEED = 64, 2
SUBMIT, UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
REQUEST = struct.Struct(">5I Iiiii 8s")             # command, seqnum, devid, direction, ep; flags, length, start, packets, interval, setup
RESULT = struct.Struct(">5I iiiii 8x")              # command, seqnum, 0, 0, 0; status, length, start, packets, errors
WAIT_S = 60.0


class Device:
    """One plug of the reader."""

    def __init__(self, module: Module, ends: tuple[int, ...]) -> None:
        self.module, self.ends, self.begun = module, ends, b""
        self.waiting = {end & 0x0F: deque[tuple[int, int]]() for end in ends if end & 0x80}       # seqnum, length
        self.packets = {end & 0x0F: deque[bytes]() for end in ends if end & 0x80}

    async def plug(self) -> None:
        """Into the controller's first port; the kernel has it when this returns, and enumerates it then."""
        self.module.power_on()
        ours, theirs = socket.socketpair()
        lines, self.out = await asyncio.open_connection(sock=ours)
        self.serving = asyncio.create_task(self.serve(lines))
        await asyncio.to_thread((VHCI / "attach").write_text, f"0 {theirs.fileno()} 65538 {FULL_SPEED}")
        theirs.close()

    async def pull(self) -> None:
        """Nothing answers any more; the kernel sees its end of the cable closed."""
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        self.out.close()

    async def serve(self, lines: asyncio.StreamReader) -> None:
        while True:
            command, seq, _, into, end, flags, length, *_, setup = REQUEST.unpack(await lines.readexactly(REQUEST.size))
            if command == UNLINK:                   # the first word of the body is the request that is wanted no more
                self.out.write(RESULT.pack(RET_UNLINK, seq, 0, 0, 0, -errno.ECONNRESET if self.forget(flags) else 0, 0, 0, 0, 0))
            elif end == 0:
                data = b"" if into else await lines.readexactly(length)
                self.control(seq, setup, data)
            elif into:
                self.waiting[end].append((seq, length))
                self.send(end)
            else:
                self.hear(end, await lines.readexactly(length))
                self.reply(seq, 0, length)

    def forget(self, seq: int) -> bool:
        for queue in self.waiting.values():
            for each in queue:
                if each[0] == seq:
                    queue.remove(each)
                    return True
        return False

    def reply(self, seq: int, status: int, length: int, data: bytes = b"") -> None:
        self.out.write(RESULT.pack(RET_SUBMIT, seq, 0, 0, 0, status, length, 0, 0, 0) + data)

    def control(self, seq: int, setup: bytes, data: bytes) -> None:
        kind, request, value, _, length = struct.unpack("<BBHHH", setup)
        answer: bytes | None = b""
        if request == 6:
            answer = {1: self.device(), 2: self.configuration()}.get(value >> 8)
        elif request in (0, 8):
            answer = b"\1" if request == 8 else b"\0\0"
        if answer is None:
            self.reply(seq, -errno.EPIPE, 0)        # a stall: there is no such descriptor
        else:
            answer = answer[:length]
            self.reply(seq, 0, len(answer) if kind & 0x80 else len(data), answer)

    @staticmethod
    def device() -> bytes:
        return struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0110, 0, 0, 0, 64, 0x0400, 0xC35A, 0x0100, 0, 0, 0, 1)

    def configuration(self) -> bytes:
        ends = b"".join(struct.pack("<BBBBHB", 7, 5, end, 2, PACKET, 0) for end in self.ends)
        head = struct.pack("<BBHBBBBB", 9, 2, 18 + len(ends), 1, 1, 0, 0x80, 50)
        return head + struct.pack("<9B", 9, 4, 0, 0, len(self.ends), 0xFF, 0, 0, 0) + ends

    def hear(self, end: int, data: bytes) -> None:
        if self.ends == SPLIT and end == SPLIT[0]:
            self.begun = data
            return
        answer, self.begun = self.module.hear(self.begun + data), b""
        parts = ((1, answer[:7]), (5, answer[7:])) if self.ends == SPLIT else ((2, answer),)
        for into, part in parts:
            self.packets[into].extend(part[at:at + PACKET] for at in range(0, len(part), PACKET))
            self.send(into)

    def send(self, end: int) -> None:
        """What is there to whoever waits: packets up to the length asked for, or up to a short one."""
        while self.waiting[end] and self.packets[end]:
            seq, length = self.waiting[end].popleft()
            data = b""
            while self.packets[end] and len(data) + PACKET <= length:
                data += self.packets[end].popleft()
                if len(data) % PACKET:
                    break
            self.reply(seq, 0, len(data), data)


def tell(what: str, **facts: object) -> None:
    print(json.dumps({"what": what, **facts}, ensure_ascii=False), flush=True)


async def there(port: UsbPort) -> None:
    """Until the kernel has enumerated it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await port.open()
                return
            except PortLost:
                await port.close()
                await asyncio.sleep(0.2)


async def scenario(shape: str) -> None:
    module, name = Module(), "0400:c35a"
    ends = SPLIT if shape == "split" else ONE_PAIR
    first, second = UsbPort(name), UsbPort(name)
    device = Device(module, ends)
    try:
        await first.open()
        tell("opened")
    except PortLost as lost:
        tell("before", word=lost.word)
    await device.plug()
    await there(first)
    try:
        await second.open()
        tell("opened")
    except PortLost as lost:
        tell("second", word=lost.word)
    await first.close()
    module.lay(card.encode_text(people.BY_NAME["样例甲"].identity()))
    found = await look(second, SystemClock(), 30, True, lambda text: None)
    tell("look", fault=found.fault, module=found.module, card=found.card, noise=found.noise,
         steps=[[step.name, step.ms, step.word] for step in found.steps])

    reports: asyncio.Queue[object] = asyncio.Queue()
    driver = Reader(UsbPort(name), reports.put, SystemClock(), allow_demo=True)
    running = asyncio.create_task(driver.run())

    async def report(what: str) -> None:
        began = SystemClock().now()
        got = await asyncio.wait_for(reports.get(), WAIT_S)
        tell(what, report=type(got).__name__, ms=SystemClock().now().us_since(began) // 1000, word=getattr(got, "reason", ""),
             name=got.identity.name if isinstance(got, CardSeen) else "", read_ms=got.read_ms if isinstance(got, CardSeen) else 0)

    await report("start")
    for card_name in ("样例乙", "样例䶮"):
        module.lay(card.encode_text(people.BY_NAME[card_name].identity()))
        await report("card")
    module.trouble("half", 0, "3001", 1)
    module.lay(card.encode_text(people.BY_NAME["样例甲"].identity()))
    await report("half an answer")
    await device.pull()
    await report("pulled")
    device = Device(module, ends)
    await device.plug()
    await report("put back")
    module.lay(card.encode_text(people.BY_NAME["样例乙"].identity()))
    await report("card")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await device.pull()
    tell("end", files=len(list(Path("/proc/self/fd").iterdir())))


async def stand(shape: str) -> None:
    """Only be there, with a card on it, until killed."""
    module = Module()
    await Device(module, SPLIT if shape == "split" else ONE_PAIR).plug()
    module.lay(card.encode_text(people.BY_NAME["样例甲"].identity()))
    tell("stands")
    await asyncio.Event().wait()


async def visit() -> None:
    """One look at whatever reader is there."""
    found = await look(UsbPort("0400:c35a"), SystemClock(), 30, True, lambda text: None)
    tell("look", fault=found.fault, card=found.card)


if __name__ == "__main__":
    asyncio.run(visit() if sys.argv[1] == "visit" else stand(sys.argv[2]) if sys.argv[1] == "stand" else scenario(sys.argv[2]))
