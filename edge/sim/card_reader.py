"""A simulated ID-card reader: a module that speaks the SDT protocol, behind a real pty, with a control socket for a person's hand.

`CardReader` stands a module (`card_module`) at the far end of a pty whose near end has the name `link`, as udev would name a real
one; pulling it out closes the pty, so that the driver sees what the kernel shows for a real one. `serve` adds the control socket,
and at a terminal a console (`card_console`). Callers: `edge sim card-reader`, `edge sim tap`, `edge sim fault`, `edge demo`, tests.

Control socket: JSON lines, one request a line, one answer a line, `{"ok": true, …}` or `{"ok": false, "why": "…"}`:
    {"do": "lay", "name": …}                     lay a card down, and leave it; in place of one that lies there: swapped quickly
    {"do": "lift"}                               take it away
    {"do": "tap", "name": …, "hold_ms": …}       lay, wait until it was read and `hold_ms` (0) have passed, at most 3 s; lift
    {"do": "unplug"}, {"do": "plug"}             pull the reader's cable out, put it back
    {"do": "trouble", "kind": …, "sw3": "41", "command": "3001", "times": N}
                                                 answer the next N commands (of that kind, if given) so: silent (not at all),
                                                 half (half a frame), garbled (wrong checksum), noise (the right answer in noise),
                                                 status (sw3, without data); N = 0 ends it
    {"do": "rate", "rate": 9600}                 hear and speak at this bit rate alone (0: at any)
    {"do": "look"}                               {"plugged", "occupied", "step", "served"}: what a person would see, and the
                                                 count of commands answered
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
import termios
import tty
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from edge import durable
from edge.idcheck import card
from edge.idcheck.port import RATES
from edge.sessions.identity import Identity
from edge.sim import card_console, people
from edge.sim.card_console import SimError
from edge.sim.card_module import TROUBLES, Module

log = logging.getLogger(__name__)

TAP_S: Final = 3.0


class CardReader:
    """A module with a cable: plugged in, `link` names its tty; unplugged, there is neither."""

    def __init__(self, link: Path, roster: Mapping[str, Identity]) -> None:
        self.module = Module()
        self._link = link
        self._roster = roster
        self._ends: tuple[int, int] | None = None
        self._hand = asyncio.Lock()
        self._tapped = ""
        self._rate = 0

    def look(self) -> dict[str, Any]:
        """What a person would see, and how many commands were answered."""
        module = self.module
        return {"plugged": self._ends is not None, "occupied": module.occupied, "step": module.step, "served": module.served}

    def plug(self) -> None:
        """Make the pty and its name. A symlink of that name is one that a killed simulator left; anything else stays."""
        if self._ends is not None:
            raise SimError("the reader is plugged in already")
        if self._link.exists() and not self._link.is_symlink():
            raise SimError(f"{self._link} is not a symlink: not touched. Give another --link, or move it away")
        far, near = os.openpty()
        # The near end stays open here too: without it the far end would report a hang-up whenever no driver is there.
        tty.setraw(near)
        os.set_blocking(far, False)
        self._ends = far, near
        self.module.power_on()
        asyncio.get_running_loop().add_reader(far, self._arrived, far)
        durable.make_folder(self._link.parent)
        durable.remove(self._link)
        self._link.symlink_to(os.ttyname(near))
        log.info("sim_reader_plugged link=%s", self._link)

    def unplug(self) -> None:
        """Pull the cable: the name goes, and a driver that has the port open gets EIO. No error if it is out already."""
        if self._ends is None:
            return
        far, near = self._ends
        self._ends = None
        asyncio.get_running_loop().remove_reader(far)
        durable.remove(self._link)
        os.close(near)
        os.close(far)
        log.info("sim_reader_unplugged link=%s", self._link)

    def lay(self, name: str) -> None:
        """Lay this person's card down. SimError if nobody is called so."""
        if name not in self._roster:
            raise SimError(f"no sample card of that name; there are: {'、'.join(self._roster)}")
        self.module.lay(card.encode_text(self._roster[name]))

    def lift(self) -> None:
        self.module.lift()

    async def tap(self, name: str, hold_s: float = 0.0) -> bool:
        """Lay, wait for the driver, lift. True if it was read within 3 s. Taps wait for one another, as people do."""
        async with self._hand:
            if self._ends is None:
                raise SimError("the reader is unplugged")
            if self.module.occupied:
                raise SimError("a card lies on the reader already: lift it first")
            if name == self._tapped:
                # A hand is slower than this program: without a pause nobody could tell it from a card that was never lifted.
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.module.found_empty.wait(), TAP_S)
            self._tapped = name
            self.lay(name)
            try:
                async with asyncio.timeout(TAP_S):
                    await self.module.was_read.wait()
            except TimeoutError:
                return False
            else:
                await asyncio.sleep(hold_s)
                return True
            finally:
                self.lift()

    def send(self, data: bytes) -> None:
        """Bytes on the line, asked for or not. Nobody reads: a serial line has no flow control, they are lost."""
        if self._ends is not None:
            with suppress(BlockingIOError):
                os.write(self._ends[0], data)

    def set_rate(self, rate: int) -> None:
        """Hear and speak at this bit rate alone; 0: at any."""
        if rate and rate not in RATES:
            raise SimError(f"a reader's bit rate is one of {', '.join(map(str, RATES))}; 0 for any")
        self._rate = rate

    def _in_tune(self) -> bool:
        """The driver has set its end of the line to the module's rate; at another one a module hears nothing that makes sense."""
        if not self._rate or self._ends is None:
            return True
        return bool(termios.tcgetattr(self._ends[1])[5] == getattr(termios, f"B{self._rate}"))

    def _arrived(self, far: int) -> None:
        try:
            data = os.read(far, 4096)
            if self._in_tune() and (answer := self.module.hear(data)):
                self.send(answer)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            log.warning("sim_reader_line_lost link=%s", self._link)
            self.unplug()


async def serve(link: Path, control: Path, roster: Mapping[str, Identity], terminal: int | None = None) -> None:
    """Be a reader named `link` with its control socket at `control`, until cancelled (or, with a console at the file descriptor
    `terminal`, until somebody leaves it). SimError if another one is there."""
    _clear(control)
    reader = CardReader(link, roster)
    reader.plug()
    try:
        server = await asyncio.start_unix_server(lambda r, w: _converse(reader, r, w), control)
        control.chmod(0o600)
        try:
            # Not serve_forever: from Python 3.12 on it would wait, when cancelled, for clients that stay connected.
            await (asyncio.Event().wait() if terminal is None else card_console.converse(terminal, lambda order: _do(reader, order)))
        finally:
            server.close()
            durable.remove(control)
    finally:
        reader.unplug()


def _clear(control: Path) -> None:
    """Remove a socket that a killed simulator left behind; refuse if one answers there, or if it is no socket."""
    durable.make_folder(control.parent)
    if not control.exists():
        return
    if not control.is_socket():
        raise SimError(f"{control} is not a socket: not touched. Give another --control, or move it away")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(control))
        except ConnectionRefusedError:
            durable.remove(control)
            return
    raise SimError(f"a simulated card reader answers at {control} already: stop that one, or use it")


async def _converse(reader: CardReader, lines: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
    try:
        while line := await lines.readline():
            out.write(json.dumps(await _obey(reader, line), ensure_ascii=False).encode() + b"\n")
            await out.drain()
    except (ConnectionError, ValueError):
        # Gone, or a line longer than a stream's buffer.
        pass
    finally:
        out.close()


async def _obey(reader: CardReader, line: bytes) -> dict[str, Any]:
    try:
        return await _do(reader, json.loads(line))
    except ValueError as error:
        return {"ok": False, "why": f"not understood ({type(error).__name__}): one JSON object a line"}


async def _do(reader: CardReader, request: dict[str, Any]) -> dict[str, Any]:
    verbs: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
        "look": lambda r: reader.look(),
        "lay": lambda r: reader.lay(r["name"]), "lift": lambda r: reader.lift(),
        "unplug": lambda r: reader.unplug(), "plug": lambda r: reader.plug(), "rate": lambda r: reader.set_rate(int(r["rate"])),
        "trouble": lambda r: reader.module.trouble(_choice(r["kind"]), int(r.get("sw3", "41"), 16), r.get("command", "").upper(),
                                                   int(r.get("times", 1)))}
    try:
        if request["do"] == "tap":
            return {"ok": True, "read": await reader.tap(request["name"], int(request.get("hold_ms", 0)) / 1000)}
        return {"ok": True} | (verbs[request["do"]](request) or {})
    except SimError as error:
        return {"ok": False, "why": str(error)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {"ok": False, "why": f"not understood ({type(error).__name__}); verbs: tap, {', '.join(verbs)}"}


def _choice(kind: str) -> str:
    if kind not in TROUBLES:
        raise SimError(f"trouble is one of {', '.join(TROUBLES)}")
    return kind


async def ask(control: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send one request to a running simulator. SimError, in plain words, if none runs there or it says no."""
    try:
        lines, out = await asyncio.open_unix_connection(control)
    except OSError as error:
        raise SimError(f"no simulated card reader answers at {control}: start one with `edge sim card-reader`, "
                       f"or give its --control ({error.strerror})") from None
    try:
        out.write(json.dumps(request, ensure_ascii=False).encode() + b"\n")
        await out.drain()
        line = await lines.readline()
    except ConnectionError:
        line = b""
    finally:
        out.close()
        with suppress(ConnectionError):
            await out.wait_closed()
    answer = json.loads(line) if line else {"ok": False, "why": "the simulated card reader went away"}
    if not answer["ok"]:
        raise SimError(answer["why"])
    return dict(answer)


async def tap(control: Path, name: str, hold_ms: int = 0) -> bool:
    """Tap a sample person's card on a running simulator. True if the driver read it; SimError if it cannot be done."""
    return bool((await ask(control, {"do": "tap", "name": name, "hold_ms": hold_ms}))["read"])


def run_card_reader(link: Path, control: Path) -> int:
    """`edge sim card-reader`: serve the sample people's cards until a signal. Exit code 0, or 2 if it cannot start."""
    terminal = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None

    async def until_signalled() -> None:
        task = asyncio.ensure_future(serve(link, control, people.cards(), terminal))
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, task.cancel)
        with suppress(asyncio.CancelledError):
            await task
    print(f"card reader at {link}, control socket at {control}", flush=True)
    try:
        asyncio.run(until_signalled())
    except SimError as error:
        print(error)
        return 2
    return 0


def run_tap(name: str, control: Path) -> int:
    """`edge sim tap NAME`: exit code 0 if the card was read, 1 if nobody read it within 3 s, 2 if it cannot be done."""
    try:
        read = asyncio.run(tap(control, name))
    except SimError as error:
        print(error)
        return 2
    print("read" if read else "not read: no driver asked for the card within 3 s; is `edge room` running on this reader?")
    return 0 if read else 1


def run_fault(words: str, control: Path) -> int:
    """`edge sim fault WORDS`: one line of the console, from outside. Exit code 0, or 2 if it cannot be done."""
    try:
        print(card_console.said(asyncio.run(ask(control, card_console.order(words)))))
    except SimError as error:
        print(error)
        return 2
    return 0
