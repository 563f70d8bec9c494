"""The ID-card reader that speaks the same protocol over USB itself, without a tty. The only module that knows pyusb.

Two shapes, told apart by the endpoints: one pair of endpoints for whole frames; and the classic split, where a frame's first seven
bytes (preamble and length) go through OUT 0x02 and IN 0x81, the rest through OUT 0x06 and IN 0x85. To its callers it is a byte line
like the other port. A reader is named `vendor:product` in hex, and with `@bus-port.port…` if one USB socket is meant; the kernel's
claim on the interface keeps a second program out. Callers: `config` builds it for `reader` and `trial`.
Source: published drivers and device lists of such readers (0400:c35a); nothing here was tried on a real one.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

import usb.core
import usb.util
from usb.backend import IBackend

from edge.idcheck.port import OPEN_WORDS, WRITE_S, OwnedPort, PortLost
from edge.idcheck.wire import LONGEST, PREAMBLE

NAME: Final = re.compile(r"(?P<vendor>[0-9a-f]{4}):(?P<product>[0-9a-f]{4})(@(?P<socket>[0-9]+-[0-9]+(\.[0-9]+)*))?")
HEAD: Final = len(PREAMBLE) + 2
SPLIT: Final = (0x02, 0x06, 0x81, 0x85)
CHUNK: Final = 64
FLUSH_READS: Final = 64
"""More chunks than the longest answer has: a device that never stops sending does not keep `flush` for ever."""


class UsbPort(OwnedPort):
    """A reader on the USB bus. `backend` is pyusb's own seam; None: libusb."""

    def __init__(self, name: str, backend: IBackend | None = None) -> None:
        super().__init__()
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} names no USB device; one looks like 0400:c35a or 0400:c35a@1-1.2")
        self.name = f"USB {name}"
        self._ids = {"idVendor": int(match["vendor"], 16), "idProduct": int(match["product"], 16)}
        self._socket = match["socket"]
        self._backend = backend
        self._device: Any = None
        self._out = self._in = (0, 0)       # head and rest of a frame; twice the same where there is one pair
        self._chunk = CHUNK
        self._rest = 0                      # bytes of the begun answer that will come through the second IN

    def _open(self, rate: int) -> None:
        device = self._find()
        try:
            with suppress(NotImplementedError):         # by libraries older than libusb-1.0
                if device.is_kernel_driver_active(0):
                    device.detach_kernel_driver(0)
            try:
                configuration = device.get_active_configuration()
            except usb.core.USBError:
                device.set_configuration()
                configuration = device.get_active_configuration()
            usb.util.claim_interface(device, 0)
            interface = configuration[(0, 0)]
            self._out, self._in = _ends(interface)
            # a read smaller than the device's packets would lose what does not fit
            self._chunk = max([CHUNK, *(each.wMaxPacketSize for each in interface)])
        except (OSError, LookupError, PortLost) as error:
            _release(device)
            if isinstance(error, PortLost):
                raise
            raise PortLost(OPEN_WORDS.get(getattr(error, "errno", None) or 0, "gone"), self.name) from error
        self._device, self._rest = device, 0

    def _find(self) -> Any:
        try:
            found = list(usb.core.find(find_all=True, backend=self._backend, **self._ids))
        except usb.core.NoBackendError as error:
            raise PortLost("no-driver", "libusb-1.0") from error
        except OSError as error:
            raise PortLost(OPEN_WORDS.get(error.errno or 0, "gone"), self.name) from error
        places = {f"{device.bus}-{'.'.join(map(str, device.port_numbers or ()))}": device for device in found}
        place = self._socket or min(places, default="")
        if place not in places:
            raise PortLost("absent", self.name)
        return places[place]

    def _opened(self) -> Any:
        if self._device is None:
            raise PortLost("gone", "not open")
        return self._device

    def _close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            _release(device)

    def _flush(self) -> None:
        self._rest = 0
        for endpoint in set(self._in):
            for _ in range(FLUSH_READS):
                if not self._take(endpoint, 0.001):
                    break

    def _write(self, data: bytes) -> None:
        head, rest = (data[:HEAD], data[HEAD:]) if self._out[0] != self._out[1] else (data, b"")
        for endpoint, part in zip(self._out, (head, rest), strict=True):
            if part and self._opened().write(endpoint, part, int(WRITE_S * 1000)) != len(part):
                raise PortLost("gone", "the reader does not take what is sent")

    def _read(self, timeout_s: float) -> bytes:
        if self._in[0] == self._in[1]:
            return self._take(self._in[0], timeout_s)
        data = self._take(self._in[1] if self._rest else self._in[0], timeout_s)
        if self._rest:
            self._rest = max(0, self._rest - len(data))
        elif len(data) >= HEAD and data.startswith(PREAMBLE):
            length = int.from_bytes(data[len(PREAMBLE):HEAD], "big")
            self._rest = max(0, HEAD + length - len(data)) if length <= LONGEST else 0
        return data

    def _take(self, endpoint: int, timeout_s: float) -> bytes:
        # libusb takes 0 for "for ever"
        with suppress(usb.core.USBTimeoutError):
            return bytes(self._opened().read(endpoint, self._chunk, max(1, round(timeout_s * 1000))))
        return b""


def _ends(interface: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """OUT and IN endpoints of head and rest. PortLost if this is no reader's interface."""
    speaking = {usb.util.ENDPOINT_TYPE_BULK, usb.util.ENDPOINT_TYPE_INTR}
    ends = [each.bEndpointAddress for each in interface if usb.util.endpoint_type(each.bmAttributes) in speaking]
    if set(SPLIT) <= set(ends):
        return (SPLIT[0], SPLIT[1]), (SPLIT[2], SPLIT[3])
    out, into = ([end for end in ends if usb.util.endpoint_direction(end) == way] for way in (usb.util.ENDPOINT_OUT, usb.util.ENDPOINT_IN))
    if len(out) != 1 or len(into) != 1:
        raise PortLost("gone", "its endpoints are not a reader's")
    return (out[0], out[0]), (into[0], into[0])


def _release(device: Any) -> None:
    with suppress(OSError):
        usb.util.dispose_resources(device)
