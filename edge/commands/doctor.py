"""`edge doctor`: what is right with the room's equipment, and what to set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.configuration import load, site_config
from edge.commands.verb import Refused, group, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs


def add(verbs: Verbs) -> None:
    """cameras, reader."""
    doctor = group(verbs, "doctor", "what is right with the room's equipment, and what to set: cameras, reader")
    v = verb(doctor, "cameras", _cameras, "find the cameras, ask them over ONVIF, look at what arrives; changes nothing",
             config="configuration file, whose network cameras are looked at too")
    v.add_argument("--address", action="append", default=[], metavar="HOST", help="ask this camera (HOST[:PORT]) instead of searching")
    v.add_argument("--credentials", type=Path, help="file with user:password for cameras that are in no configuration")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")
    v = verb(doctor, "reader", _reader, "the ID-card reader: port, bit rate, module, time of each step with a card; changes nothing",
             config="configuration file; its reader is looked at")
    v.add_argument("--port", type=Path, help="look at this serial port instead")
    v.add_argument("--usb", metavar="ID", help="look at this USB reader instead: 0400:c35a, or 0400:c35a@1-1.2")
    v.add_argument("--seconds", type=float, default=15, help="how long to wait for a card (default 15; 0: look at the reader alone)")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")


def _cameras(args: argparse.Namespace) -> int:
    from edge.capture.onvif import read_account
    from edge.doctor import doctor_cameras
    config = load(args) if args.config or site_config() else None
    try:
        account = read_account(args.credentials) if args.credentials else None
    except ValueError as error:
        raise Refused(f"{error}. No camera was asked.") from None
    return doctor_cameras(config, args.address, account, args.json)


def _reader(args: argparse.Namespace) -> int:
    from edge.config import ReaderSection
    from edge.doctor_reader import doctor_reader
    named = {key: value for key, value in (("port", args.port), ("usb", args.usb)) if value is not None}
    config = load(args) if args.config or (site_config() and not named) else None
    try:
        section = ReaderSection(**named) if named else config.reader if config else ReaderSection()
    except ValueError:
        raise Refused(f"{args.usb!r} names no USB reader; one looks like 0400:c35a or 0400:c35a@1-1.2. Nothing was opened.") from None
    return doctor_reader(section, args.seconds, config.room.allow_demo_ids if config else True, args.json)
