"""A USB bus with an ID-card reader in one of its sockets, below pyusb: a backend of pyusb's own interface, no kernel and no libusb.

What it promises is what libusb does with a real device, as its documentation has it: one claim on an interface, time-outs with errno 110,
errno 19 once the plug is out, packets that are not joined. The module in the reader is the simulator's; it runs in the event loop, as
behind the pty, whichever thread transfers. Used by tests/contracts and tests/idcheck.
"""

from __future__ import annotations

import array
import asyncio
import errno
import threading
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from usb.backend import IBackend
from usb.core import USBError, USBTimeoutError

from edge.sim.card_module import Module

PACKET = 64
ONE_PAIR, SPLIT = (0x01, 0x82), (0x02, 0x06, 0x81, 0x85)
DEVICE = {"bLength": 18, "bDescriptorType": 1, "bcdUSB": 0x0110, "bDeviceClass": 0, "bDeviceSubClass": 0, "bDeviceProtocol": 0,
          "bMaxPacketSize0": 64, "bcdDevice": 0x0100, "iManufacturer": 0, "iProduct": 0, "iSerialNumber": 0, "bNumConfigurations": 1,
          "address": 7, "bus": 1, "port_number": 2, "speed": 2}


class Plugged:
    """One plug of a reader into a socket: what ends when it is pulled out."""

    def __init__(self, module: Module, ends: tuple[int, ...], ports: tuple[int, ...], ids: tuple[int, int]) -> None:
        self.module, self.ends, self.ports, self.ids = module, ends, ports, ids
        self.there = True
        self.kernel_driver = False
        self.configured = True
        self.claimed_by: object | None = None
        self.packets: dict[int, deque[bytes]] = {end: deque() for end in ends if end & 0x80}
        self.begun = b""
        self.change = threading.Condition()


class UsbBus(IBackend):  # type: ignore[misc]  # pyusb has no types
    """Hand it to `UsbPort(backend=…)`. `plug` and `pull` are the hand's."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.plugged: list[Plugged] = []
        self.denied = False

    def plug(self, module: Module, ends: tuple[int, ...] = ONE_PAIR, ports: tuple[int, ...] = (1, 2),
             ids: tuple[int, int] = (0x0400, 0xC35A)) -> Plugged:
        module.power_on()
        self.plugged.append(Plugged(module, ends, ports, ids))
        return self.plugged[-1]

    def pull(self) -> None:
        for each in self.plugged:
            with each.change:
                each.there = False
                each.change.notify_all()
        self.plugged.clear()

    # ---- what pyusb asks ----------------------------------------------------------------------------------------------

    def enumerate_devices(self) -> Iterator[Plugged]:
        return iter(list(self.plugged))

    def get_device_descriptor(self, dev: Plugged) -> Any:
        return SimpleNamespace(**DEVICE, idVendor=dev.ids[0], idProduct=dev.ids[1], port_numbers=dev.ports)

    def get_configuration_descriptor(self, dev: Plugged, config: int) -> Any:
        if config:
            raise IndexError(config)
        return SimpleNamespace(bLength=9, bDescriptorType=2, wTotalLength=18 + 7 * len(dev.ends), bNumInterfaces=1,
                               bConfigurationValue=1, iConfiguration=0, bmAttributes=0x80, bMaxPower=50, extra_descriptors=[])

    def get_interface_descriptor(self, dev: Plugged, intf: int, alt: int, config: int) -> Any:
        if intf or alt:
            raise IndexError(intf)
        return SimpleNamespace(bLength=9, bDescriptorType=4, bInterfaceNumber=0, bAlternateSetting=0, bNumEndpoints=len(dev.ends),
                               bInterfaceClass=0xFF, bInterfaceSubClass=0, bInterfaceProtocol=0, iInterface=0, extra_descriptors=[])

    def get_endpoint_descriptor(self, dev: Plugged, ep: int, intf: int, alt: int, config: int) -> Any:
        return SimpleNamespace(bLength=7, bDescriptorType=5, bEndpointAddress=dev.ends[ep], bmAttributes=2, wMaxPacketSize=PACKET,
                               bInterval=0, bRefresh=0, bSynchAddress=0, extra_descriptors=[])

    def open_device(self, dev: Plugged) -> Any:
        self._there(dev)
        if self.denied:
            raise USBError("Access denied (insufficient permissions)", -3, errno.EACCES)
        return SimpleNamespace(dev=dev)

    def close_device(self, dev_handle: Any) -> None:
        self._give_back(dev_handle)

    def get_configuration(self, dev_handle: Any) -> int:
        return int(dev_handle.dev.configured)

    def set_configuration(self, dev_handle: Any, config_value: int) -> None:
        self._there(dev_handle.dev)
        dev_handle.dev.configured = config_value == 1

    def is_kernel_driver_active(self, dev_handle: Any, intf: int) -> bool:
        return bool(dev_handle.dev.kernel_driver)

    def detach_kernel_driver(self, dev_handle: Any, intf: int) -> None:
        dev_handle.dev.kernel_driver = False

    def claim_interface(self, dev_handle: Any, intf: int) -> None:
        self._there(dev_handle.dev)
        if dev_handle.dev.kernel_driver or not (dev_handle.dev.claimed_by is None or dev_handle.dev.claimed_by is dev_handle):
            raise USBError("Resource busy", -6, errno.EBUSY)
        dev_handle.dev.claimed_by = dev_handle

    def release_interface(self, dev_handle: Any, intf: int) -> None:
        self._give_back(dev_handle)

    def bulk_write(self, dev_handle: Any, ep: int, intf: int, data: array.array[int], timeout: int) -> int:
        dev: Plugged = dev_handle.dev
        self._there(dev)
        assert dev.claimed_by is dev_handle, "a transfer without a claim"
        asyncio.run_coroutine_threadsafe(self._hear(dev, ep, data.tobytes()), self.loop).result(timeout / 1000)
        return len(data)

    def bulk_read(self, dev_handle: Any, ep: int, intf: int, buff: array.array[int], timeout: int) -> int:
        dev: Plugged = dev_handle.dev
        assert len(buff) % PACKET == 0, "a read that a packet would overflow"
        with dev.change:
            dev.change.wait_for(lambda: dev.packets[ep] or not dev.there, timeout / 1000)
            self._there(dev)
            if not dev.packets[ep]:
                raise USBTimeoutError("Operation timed out", -7, errno.ETIMEDOUT)
            got = b""
            while dev.packets[ep] and len(got) < len(buff):
                got += (packet := dev.packets[ep].popleft())
                if len(packet) < PACKET:            # a short packet ends a transfer
                    break
        buff[:len(got)] = array.array("B", got)
        return len(got)

    # ---- the device ---------------------------------------------------------------------------------------------------

    async def _hear(self, dev: Plugged, ep: int, data: bytes) -> None:
        if dev.ends == SPLIT:
            if ep == SPLIT[0]:
                assert len(data) == 7, "the first endpoint takes preamble and length"
                dev.begun = data
                return
            data, dev.begun = dev.begun + data, b""
        answer = dev.module.hear(data)
        with dev.change:
            if dev.ends == SPLIT:
                self._send(dev, SPLIT[2], answer[:7])
                self._send(dev, SPLIT[3], answer[7:])
            else:
                self._send(dev, next(end for end in dev.ends if end & 0x80), answer)
            dev.change.notify_all()

    @staticmethod
    def _send(dev: Plugged, ep: int, data: bytes) -> None:
        dev.packets[ep].extend(data[at:at + PACKET] for at in range(0, len(data), PACKET))

    @staticmethod
    def _there(dev: Plugged) -> None:
        if not dev.there:
            raise USBError("No such device (it may have been disconnected)", -4, errno.ENODEV)

    @staticmethod
    def _give_back(dev_handle: Any) -> None:
        if dev_handle.dev.claimed_by is dev_handle:
            dev_handle.dev.claimed_by = None
