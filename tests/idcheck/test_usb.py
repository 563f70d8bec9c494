"""What only a USB reader can do wrong: its name, its endpoints, who else wants it. What every port promises: tests/contracts."""

from __future__ import annotations

import asyncio

import pytest

from edge.clock import SystemClock
from edge.config import ReaderSection
from edge.idcheck import wire
from edge.idcheck.line import Line, NoAnswer
from edge.idcheck.port import PORT_WORDS, PortLost
from edge.idcheck.usb import UsbPort
from edge.idcheck.wire import Answer
from edge.sim.card_module import Module
from tests.rigs.usb_reader import ONE_PAIR, SPLIT, UsbBus


async def refused(port: UsbPort) -> str:
    with pytest.raises(PortLost) as error:
        await port.open()
    await port.close()
    assert error.value.word in PORT_WORDS
    return error.value.word


async def works(port: UsbPort) -> bool:
    line = Line(port, SystemClock())
    await line.open()
    try:
        return await line.ask(wire.STATUS) == Answer(0x90)
    finally:
        await line.close()


@pytest.mark.parametrize("name", ["", "0400", "0400:C35A", "0400:c35a@", "0400:c35a@1", "0400:c35a@1-", "*:*", "0400:c35a@1-1."])
def test_a_name_that_names_nothing(name: str) -> None:
    with pytest.raises(ValueError, match="0400:c35a@1-1"):
        UsbPort(name)
    with pytest.raises(ValueError, match="usb"):
        ReaderSection(usb=name)


def test_the_configured_port() -> None:
    assert ReaderSection(usb="0400:c35a@1-1.2").wire().name == "USB 0400:c35a@1-1.2"
    assert ReaderSection().wire().name == "/dev/idcard0"


async def test_another_device_of_the_same_vendor_is_not_taken() -> None:
    bus = UsbBus()
    bus.plug(Module(), ids=(0x0400, 0xC359))
    assert await refused(UsbPort("0400:c35a", bus)) == "absent"


async def test_an_interface_that_is_not_a_readers() -> None:
    for ends in ((), (0x81,), (0x01, 0x02, 0x83), (0x02, 0x06, 0x81)):
        bus = UsbBus()
        plugged = bus.plug(Module(), ends)
        assert await refused(UsbPort("0400:c35a", bus)) == "gone"
        assert plugged.claimed_by is None, "left to whoever can use it"


async def test_no_permission() -> None:
    bus = UsbBus()
    bus.plug(Module())
    bus.denied = True
    assert await refused(UsbPort("0400:c35a", bus)) == "denied"
    bus.denied = False
    assert await works(UsbPort("0400:c35a", bus))


async def test_a_driver_of_the_kernels_gives_way_and_a_configuration_is_set() -> None:
    bus = UsbBus()
    plugged = bus.plug(Module())
    plugged.kernel_driver, plugged.configured = True, False
    assert await works(UsbPort("0400:c35a", bus))
    assert plugged.configured and not plugged.kernel_driver
    assert plugged.claimed_by is None, "given back"


async def test_of_two_readers_the_one_in_the_named_socket() -> None:
    bus = UsbBus()
    first, second = bus.plug(Module(), ports=(1, 1)), bus.plug(Module(), ports=(1, 2))
    port = UsbPort("0400:c35a@1-1.2", bus)
    await port.open()
    assert second.claimed_by is not None and first.claimed_by is None
    await port.close()
    assert await refused(UsbPort("0400:c35a@1-1.3", bus)) == "absent"
    port = UsbPort("0400:c35a", bus)
    await port.open()
    assert first.claimed_by is not None, "without a socket's name always the same one"
    await port.close()


@pytest.mark.parametrize("ends", [ONE_PAIR, SPLIT])
@pytest.mark.parametrize("kind", ["half", "garbled", "silent"])
async def test_after_a_spoilt_answer_the_next_one_is_whole(ends: tuple[int, ...], kind: str) -> None:
    bus, module = UsbBus(), Module()
    bus.plug(module, ends)
    line = Line(UsbPort("0400:c35a", bus), SystemClock())
    await line.open()
    module.trouble(kind, 0, "12FF", 1)
    with pytest.raises(NoAnswer):
        await line.ask(wire.SAM_ID, 0.2)
    assert wire.sam_id((await line.ask(wire.SAM_ID)).data).startswith("05.01-")
    await line.close()


async def test_a_split_header_that_promises_too_much_keeps_nobody_waiting() -> None:
    """A length beyond the cap, and a length whose rest never comes: the next question starts anew at the first endpoint."""
    bus, module = UsbBus(), Module()
    plugged = bus.plug(module, SPLIT)
    line = Line(UsbPort("0400:c35a", bus), SystemClock())
    await line.open()
    for header in ("AAAAAA9669FFFF", "AAAAAA96690A00"):
        module.trouble("silent", 0, "11FF", 1)
        asking = asyncio.create_task(line.ask(wire.STATUS))
        while module._trouble_left:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        with plugged.change:
            plugged.packets[SPLIT[2]].append(bytes.fromhex(header))
            plugged.change.notify_all()
        with pytest.raises(NoAnswer):
            await asking
        assert await line.ask(wire.STATUS) == Answer(0x90)
    await line.close()
