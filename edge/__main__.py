"""The door: the `edge` command. Each verb imports its part when it is called, so that none pays for another.

Exit codes: 0 done; 1 it did not work, and the text says why; 2 the words of the command are wrong; 3 it refuses to start until
somebody acts (configuration, key, disk). Verbs are documented in docs/operators/commands.md; a test compares. Long, because every
verb has its few lines here: what it takes from the configuration, and nothing of what it does.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import getpass
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import __version__

if TYPE_CHECKING:
    from edge.app import Refused as AppRefused
    from edge.capture.streams import StreamSpec
    from edge.config import Config
    from edge.export import HandedOut
    from edge.keyring import Files
    from edge.retrieval import Found
    from edge.upload.archive import Archive
    from edge.web.texts import Texts

SITE_CONFIG = Path("/etc/edge/edge.toml")


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns the exit code."""
    logging.basicConfig(level=os.environ.get("EDGE_LOG", "INFO").upper(), stream=sys.stderr,
                        format="%(levelname)s %(name)s %(message)s")
    for chatty in ("httpx", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    args = parser().parse_args(argv)
    try:
        return int(args.verb(args) or 0)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _explain(error, args.verb in (_room, _recorder, _record, _watch))


def _explain(error: Exception, program: bool) -> int:
    """What a person can act on goes out in plain words; anything else keeps its traceback."""
    words = {"ConfigError": 3, "NotReady": 3, "StorageRefused": 3, "NewerSchema": 3, "NotExportable": 1, "ArchiveError": 1,
             "AlreadyRunning": 1, "Refused": 1, "BackupRefused": 1, "MemberChanged": 1, "OtherFile": 1, "NoStore": 1, "Fatal": 1}
    code = words.get(type(error).__name__)
    if code is None and not program and isinstance(error, OSError | EOFError):
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        print(f"edge: {where}{getattr(error, 'strerror', None) or 'nobody is there to answer; name a file instead'}. Nothing was changed.",
              file=sys.stderr)
        return 1
    if code is None:
        logging.getLogger("edge").exception("ended by a fault that nobody foresaw")
        return 1
    print(f"edge: {error}", file=sys.stderr)
    return code


class Refused(Exception):
    """A verb that cannot be done, in plain words."""


def parser() -> argparse.ArgumentParser:
    """Every verb and its options: as long as there are verbs."""
    top = argparse.ArgumentParser(prog="edge", description="Exam-room edge controller: records, checks identity, proves.")
    top.add_argument("--version", action="version", version=f"edge {__version__}")
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def add(name: str, run: object, text: str, config: bool = False) -> argparse.ArgumentParser:
        each = verbs.add_parser(name, help=text, description=text)
        each.set_defaults(verb=run)
        if config:
            each.add_argument("--config", type=Path, help=f"configuration file (default: $EDGE_CONFIG, {SITE_CONFIG}, or the demo's)")
        return each

    v = add("demo", _demo, "run a demo room: simulated reader, pictures and platform, on real wires")
    v.add_argument("--dir", type=Path, help="the demo's folder (default: demo/ in the project)")
    v.add_argument("--port", type=int, help="TCP port of the pages (default 8000, or any free one; 0: any)")
    v.add_argument("--platform-port", type=int, help="TCP port of the simulated platform (default 8900, or any free one; 0: any)")
    v.add_argument("--template", type=Path, help="another configuration than config/demo.toml")
    add("run", _run, "run recorder and room together (on site two systemd units do this)", config=True)
    v = add("room", _room, "run the room: pages, door, journal, platform; everything but the cameras", config=True)
    v.add_argument("--demo-logins", type=Path, help=argparse.SUPPRESS)
    add("recorder", _recorder, "run the recorder: one worker per stream, whatever else happens", config=True)
    v = add("record", _record, "record one stream until stdin closes or SIGTERM (the recorder's worker; runs by hand too)", config=True)
    v.add_argument("--stream", required=True, help="the stream's id")
    v.add_argument("--quiet", action="store_true", help="show no progress at a terminal")
    v = add("watch", _watch, "look at and listen to what is recorded until stdin closes or SIGTERM (the recorder's watcher)", config=True)
    v.add_argument("--renew", metavar="STREAM", help="only this: the camera was moved on purpose, make a new reference picture of it")
    v.add_argument("--probe", metavar="STREAM", help="only this: play back samples of the stream's last day, as is done daily")
    v = add("drill", _drill, "rehearse a whole session on the running room (starts the demo room if none runs)", config=True)
    v.add_argument("--seconds", type=int, default=20, help="length of the rehearsed exam (default 20)")
    v.add_argument("--json", action="store_true", help="one JSON object as the last line")
    v.add_argument("--dir", type=Path, help="the demo's folder, if the demo room is rehearsed")
    v = add("export", _export, "write a session for an auditor: footage, manifest, receipts, certificates, VERIFY.md", config=True)
    v.add_argument("session", help="the session's id")
    v.add_argument("--to", type=Path, required=True, help="a new or empty folder, or a file NAME.zip; a ZIP that broke off is gone on with")
    v.add_argument("--full", action="store_true", help="names and numbers whole instead of masked; an auditor signs for it")
    v.add_argument("--by", metavar="STAFF_ID", help="the auditor who signs (with --full)")
    v.add_argument("--reason", help="why names and numbers leave the room (with --full); goes into the journal")
    v.add_argument("--secrets-from", type=Path, help="file with the auditor's PIN, instead of asking")
    v.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    _add_verify(add("verify", _verify, "check an exported session, a device's whole history or the room's own store: "
                    "PASS, PASS WITH DECLARED GAPS or FAIL; needs no room and no network", config=True))
    _add_keeping(verbs)
    _add_upkeep(verbs)
    _add_archive(verbs)
    _add_doctor(verbs)
    _add_sims(verbs)
    add("config", _config, "print every configuration key, its default and its meaning")
    return top


def _add_verify(v: argparse.ArgumentParser) -> None:
    v.add_argument("folder", type=Path, nargs="?", help="an exported session, folder or ZIP; or many documents: a device's history")
    v.add_argument("--root", type=Path, help="the authority's root certificate, got another way than with the export")
    v.add_argument("--receipts", type=Path, action="append", default=[], metavar="FOLDER", help="of a history: the platform's own receipts")
    v.add_argument("--schedule", type=Path, help="of a history: a file with the ids of the sessions that the exam schedule has, one a line")
    v.add_argument("--since", type=int, default=1, metavar="N", help="of a history: the first session's number (default 1)")
    v.add_argument("--crl", type=Path, action="append", default=[], help="a revocation list of the authority (PEM or DER)")
    v.add_argument("--sm2-root", type=Path, help="judge second signatures in SM2, too: the authority's SM2 root (PEM); needs openssl 3")
    v.add_argument("--sm2-distid", default="", metavar="ID", help="with --sm2-root: the distinguishing id that the authority has assigned")
    v.add_argument("--store", nargs="?", const="", metavar="SESSION", help="check the room's own store instead, or one session of it")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")


def _add_keeping(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def group(name: str, text: str) -> argparse._SubParsersAction[argparse.ArgumentParser]:
        return verbs.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="WHAT")

    def config(each: argparse.ArgumentParser, run: object) -> argparse.ArgumentParser:
        each.add_argument("--config", type=Path, help="configuration file")
        each.set_defaults(verb=run)
        return each

    staff = group("staff", "who may log in and sign: add, list, remove")
    v = config(staff.add_parser("add", help="add or replace a member; asks for password and PIN"), _staff_add)
    v.add_argument("staff_id")
    v.add_argument("--name", required=True)
    v.add_argument("--role", default="staff", help="staff, auditor or sysadmin (default staff)")
    v.add_argument("--secrets-from", type=Path, help="file with two lines, password and PIN, instead of asking")
    config(staff.add_parser("list", help="who there is; no secrets"), _staff_list)
    config(staff.add_parser("remove", help="take a member out"), _staff_remove).add_argument("staff_id")
    _add_key(group("key", "the device's signing key: init, csr, install, roll, status"), config)
    roster = group("roster", "a session's list of candidates from a file: import")
    v = config(roster.add_parser("import", help="show what a CSV or XLSX would change; take it when two have signed"), _roster_import)
    v.add_argument("file", type=Path)
    v.add_argument("--session", required=True, help="the session's id")
    v.add_argument("--dry-run", action="store_true", help="only show what would change")
    v.add_argument("--expect", metavar="DIGEST", help="take it only if what would change has this digest (of a dry run)")
    v.add_argument("--by", metavar="STAFF_ID", help="the chief, who signs")
    v.add_argument("--second", metavar="STAFF_ID", help="the second person who signs")
    v.add_argument("--reason", help="why the platform's own list is not used")
    v.add_argument("--secrets-from", type=Path, help="file with two lines, the chief's PIN and the second person's, instead of asking")
    _add_retention(group, config)
    storage = group("storage", "the footage folder: init")
    config(storage.add_parser("init", help="give the mounted data disk its identity, and pin it"), _storage_init)


def _add_upkeep(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    def verb(group: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: object, text: str) -> argparse.ArgumentParser:
        each = group.add_parser(name, help=text, description=text)
        each.add_argument("--config", type=Path, help="configuration file")
        each.set_defaults(verb=run)
        return each

    v = verb(verbs, "reindex", _reindex, "rebuild the catalog of footage from the disk alone; the room must not run, the recorder may")
    v.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    v = verb(verbs, "fsck", _fsck, "check the invariants of journal, index, documents and files; --repair mends only what is provable")
    v.add_argument("--repair", action="store_true", help="mend what the journal proves; the room must not run. Deletes nothing")
    v.add_argument("--deep", action="store_true", help="also read every film through and compare its SHA-256")
    v.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    text = "the room's state without keys and footage: make, verify, restore"
    backups = verbs.add_parser("backup", help=text, description=text).add_subparsers(required=True, metavar="WHAT")
    v = verb(backups, "make", _backup_make, "copy the state of the room, running or not, into a new folder")
    v.add_argument("--to", type=Path, required=True, help="a new or empty folder")
    v.add_argument("--keys-to", type=Path, help="a new or empty folder on another medium for the keys; without it they are left out")
    v = backups.add_parser("verify", help="is a backup whole: every file, the database, the journal's chain; needs nothing but the folder")
    v.add_argument("folder", type=Path)
    v.set_defaults(verb=_backup_verify)
    v = verb(backups, "restore", _backup_restore, "fill an empty state folder from a backup, rebuild the catalog; overwrites nothing")
    v.add_argument("folder", type=Path)
    v.add_argument("--keys-from", type=Path, help="the folder with the keys of that backup")


def _add_archive(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "sessions in the archive, from any machine that sees the bucket; no room is needed: find, get, verify, test, expire"
    group = verbs.add_parser("archive", help=text, description=text).add_subparsers(required=True, metavar="WHAT")

    def add(name: str, run: object, text: str, *, session: bool = True, who: bool = False) -> argparse.ArgumentParser:
        v = group.add_parser(name, help=text, description=text)
        v.set_defaults(verb=run)
        if session:
            v.add_argument("session", help="the session's id")
        v.add_argument("--bucket", action="append", required=True, help="where to look; may be said more than once")
        v.add_argument("--config", type=Path, help="take what is not said here from this configuration's archive section")
        v.add_argument("--endpoint", help="address of the store (default: Amazon's)")
        v.add_argument("--credentials", type=Path, help="file with two lines, access key and secret key (default: AWS_… variables, ~/.aws)")
        v.add_argument("--ca", type=Path, help="certificate authorities for https, if not the system's")
        v.add_argument("--region", help="region the requests are signed for (default us-east-1)")
        if who:
            v.add_argument("--by", required=True, help="who asks; stays in the archive")
            v.add_argument("--reason", required=True, help="why; stays in the archive")
            v.add_argument("--root", type=Path, help="the authority's root certificate, got another way than with the archive")
        return v

    add("find", _archive_find, "what the archive holds of a session").add_argument("--json", action="store_true", help="as one JSON object")
    v = add("get", _archive_get, "fetch a session as `edge export` would write it, and verify it; goes on where it broke off", who=True)
    v.add_argument("--to", type=Path, required=True, help="a new or empty folder, or one that was begun")
    v = add("verify", _archive_verify, "verify a session's bytes and locks in the archive, keeping nothing", who=True)
    v.add_argument("--work", type=Path, help="folder with room for the whole session meanwhile (default: the system's)")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")
    add("test", _archive_test, "whether the store really locks: takes a minute", session=False)
    v = add("expire", _archive_expire, "delete a session whose locks have run out, leaving a signed record; without --delete only say it")
    v.add_argument("--delete", action="store_true", help="do it")
    v.add_argument("--by", help="who orders it; stays in the record")
    v.add_argument("--key", type=Path, help="key that signs the record (default: the configuration's)")
    v.add_argument("--certificate", type=Path, help="its certificate chain (default: the configuration's)")


def _add_retention(group: Callable[..., Any], config: Callable[..., argparse.ArgumentParser]) -> None:
    retention = group("retention", "until when sessions are kept, and whether the disk will do: report, approve, lengthen")
    v = config(retention.add_parser("report", help="what goes within some days, what is held, how full the disk will be; changes nothing"),
               _retention_report)
    v.add_argument("--days", type=int, default=30, help="how far ahead (default 30)")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")

    def signed(each: argparse.ArgumentParser) -> argparse.ArgumentParser:
        each.add_argument("--by", metavar="STAFF_ID", required=True, help="the auditor, who signs")
        each.add_argument("--secrets-from", type=Path, help="file with one line, the auditor's PIN, instead of asking")
        return each

    v = signed(config(retention.add_parser("approve", help="agree that all that is due goes, though it is more than goes unasked"),
                      _retention_approve))
    v.add_argument("--expect", metavar="DIGEST", help="agree only to what a report with this digest showed")
    v = signed(config(retention.add_parser("lengthen", help="keep a session longer; never shorter"), _retention_lengthen))
    v.add_argument("session", help="the session's id")
    v.add_argument("--until", metavar="DATE", required=True, help="the last day on which it is kept, 2040-12-31")
    v.add_argument("--reason", required=True, help="why; goes into the journal")
    hold = group("hold", "nothing of a session goes while a hold stands: place, release, list")
    v = signed(config(hold.add_parser("place", help="nothing of this session goes until the hold is released"), _hold_place))
    v.add_argument("session", help="the session's id")
    v.add_argument("--reason", required=True, help="why; goes into the journal")
    v = signed(config(hold.add_parser("release", help="one hold is over; others and the date stand"), _hold_release))
    v.add_argument("session", help="the session's id")
    v.add_argument("hold_id", metavar="HOLD", help="the hold's id, H-…")
    v.add_argument("--reason", required=True, help="why; goes into the journal")
    config(hold.add_parser("list", help="what is on hold, since when, by whom and why"), _hold_list)


def _add_key(key: argparse._SubParsersAction[argparse.ArgumentParser],
             config: Callable[[argparse.ArgumentParser, object], argparse.ArgumentParser]) -> None:
    def make(name: str, run: object, text: str) -> argparse.ArgumentParser:
        v = config(key.add_parser(name, help=text, description=text), run)
        v.add_argument("--device", help="the device's id (default: that of the certificate in force, else the room's code with -E1)")
        return v

    def place(v: argparse.ArgumentParser) -> None:
        v.add_argument("--place", choices=("file", "credential", "tpm2", "pkcs11"), default="file", help="where it lives (default file)")
        v.add_argument("--module", type=Path, help="pkcs11: the maker's library")
        v.add_argument("--token", default="", help="pkcs11: the token's label")
        v.add_argument("--pin-file", type=Path, help="pkcs11: file with the token's PIN, mode 0600")
        v.add_argument("--sealed-to", choices=("host", "tpm2", "host+tpm2"), default="host", help="credential: to what (default host)")

    v = make("init", _key_init, "make the device key (never twice) and print a certificate request")
    place(v)
    v.add_argument("--sm2", action="store_true", help="the key of the second signature (evidence.sm2_key) instead")
    v = make("csr", _key_csr, "print a new certificate request for a key there is")
    v.add_argument("--next", action="store_true", help="for the key that is to follow")
    v.add_argument("--sm2", action="store_true", help="for the key of the second signature")
    v = config(key.add_parser("install", help="put an issued certificate and the authority's root in place"), _key_install)
    v.add_argument("--certificate", type=Path, required=True, help="PEM chain: the device's leaf, then intermediates")
    v.add_argument("--root", type=Path, help="PEM of the authority's root (the first time; later the one in force)")
    v = make("roll", _key_roll, "make the key that is to follow the one in force, and print its certificate request")
    place(v)
    v.add_argument("--withdraw", action="store_true", help="only this: take back what waits to follow")
    v = config(key.add_parser("status", help="key, certificate, days left, what waits to follow; signs, to see that it does"), _key_status)
    v.add_argument("--json", action="store_true", help="one JSON object")


def _add_doctor(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "what is right with the room's equipment, and what to set: cameras, reader"
    doctor = verbs.add_parser("doctor", help=text, description=text).add_subparsers(required=True, metavar="WHAT")
    v = doctor.add_parser("cameras", help="find the cameras, ask them over ONVIF, look at what arrives; changes nothing")
    v.add_argument("--config", type=Path, help="configuration file, whose network cameras are looked at too")
    v.add_argument("--address", action="append", default=[], metavar="HOST", help="ask this camera (HOST[:PORT]) instead of searching")
    v.add_argument("--credentials", type=Path, help="file with user:password for cameras that are in no configuration")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")
    v.set_defaults(verb=_doctor_cameras)
    v = doctor.add_parser("reader", help="the ID-card reader: port, bit rate, module, time of each step with a card; changes nothing")
    v.add_argument("--config", type=Path, help="configuration file; its reader is looked at")
    v.add_argument("--port", type=Path, help="look at this serial port instead")
    v.add_argument("--usb", metavar="ID", help="look at this USB reader instead: 0400:c35a, or 0400:c35a@1-1.2")
    v.add_argument("--seconds", type=float, default=15, help="how long to wait for a card (default 15; 0: look at the reader alone)")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")
    v.set_defaults(verb=_doctor_reader)


def _add_sims(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "simulated devices at the far end of the real wire: card-reader, tap, fault, platform, class"
    sims = verbs.add_parser("sim", help=text, description=text).add_subparsers(required=True, metavar="WHAT")
    v = sims.add_parser("card-reader", help="a reader behind a pty")
    v.add_argument("--link", type=Path, required=True, help="the symbolic link that names the pty")
    v.add_argument("--control", type=Path, required=True, help="the socket that lays and lifts cards")
    v.set_defaults(verb=_sim_reader)
    v = sims.add_parser("tap", help="lay a card of the sample roster on the simulated reader, and lift it when it was read")
    v.add_argument("name", help="样例甲, 样例乙, …")
    v.add_argument("--control", type=Path, help="the reader's socket (default: the demo's)")
    v.set_defaults(verb=_sim_tap)
    v = sims.add_parser("fault", help="spoil what the simulated reader answers, pull its plug, swap cards: one line of its console")
    v.add_argument("words", nargs="+", metavar="WORD", help="noise, half, checksum, timeout, status 41 on read 3, unplug, lay NAME, …")
    v.add_argument("--control", type=Path, help="the reader's socket (default: the demo's)")
    v.set_defaults(verb=_sim_fault)
    v = sims.add_parser("platform", help="the province's platform on loopback, with an authority of its own")
    v.add_argument("--dir", type=Path, required=True, help="its folder: authority and books")
    v.add_argument("--port", type=int, required=True)
    v.add_argument("--room", required=True, help="the room's code")
    v.set_defaults(verb=_sim_platform)
    v = sims.add_parser("class", help="let the demo's platform publish a training class, to try signing in with cards")
    v.set_defaults(verb=_sim_class)


# ---- the programs -----------------------------------------------------------------------------------------------------

def _demo(args: argparse.Namespace) -> int:
    from edge import demo
    return demo.demo(args.dir or demo.default_folder(), args.port, args.platform_port, args.template or demo.TEMPLATE)


def _run(args: argparse.Namespace) -> int:
    from edge.programs import Keeper, Program, edge
    file = str(_config_path(args))
    _load(args)
    programs = (Program("recorder", edge("recorder", "--config", file)), Program("room", edge("room", "--config", file)))
    return asyncio.run(Keeper(programs).run())


def _room(args: argparse.Namespace) -> int:
    from edge import app
    logins = json.loads(args.demo_logins.read_text(encoding="utf-8")) if args.demo_logins else []
    return asyncio.run(app.run_room(_load(args), tuple(tuple(each) for each in logins)))


def _recorder(args: argparse.Namespace) -> int:
    from edge.programs import edge
    from edge.recording import run_recorder
    file = str(_config_path(args))
    return asyncio.run(run_recorder(_load(args), lambda spec: list(edge("record", "--config", file, "--stream", spec.id)),
                                    edge("watch", "--config", file)))


def _record(args: argparse.Namespace) -> int:
    from edge import progress, status
    from edge.capture.worker import run_worker
    config = _load(args)
    spec = _spec(config, args.stream)
    config.paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    # by hand means both ends at a terminal: a worker of the recorder's has a pipe for a leash
    by_hand = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and not args.quiet
    with progress.line(spec.id, config.paths.run, config.paths.footage, sys.stderr) if by_hand else nullcontext():
        return run_worker(spec, config.paths.footage, config.paths.run, lambda: status.probe_clock().state, storage_uuid=_pinned(config))


def _watch(args: argparse.Namespace) -> int:
    from edge import recording
    from edge.programs import edge
    config, file = _load(args), str(_config_path(args))
    if args.renew:
        return recording.renew_reference(config, _spec(config, args.renew).id)
    if args.probe:
        return recording.play_back(config, _spec(config, args.probe).id)
    return recording.run_watcher(config, lambda stream: list(edge("watch", "--config", file, "--probe", stream)))


def _spec(config: Config, stream: str) -> StreamSpec:
    for spec in config.specs():
        if spec.id == stream:
            return spec
    raise Refused(f"the configuration has no stream {stream!r}; it has {', '.join(s.id for s in config.streams)}")


def _drill(args: argparse.Namespace) -> int:
    from edge import demo
    from edge.drill import drill
    if args.seconds < 1:
        raise Refused("a drill lasts at least one second")
    site = args.config or (None if args.dir else _site_config())
    run = _load(args).paths.run if site else None
    return drill(run, args.seconds, args.json, args.dir or demo.default_folder())


def _doctor_cameras(args: argparse.Namespace) -> int:
    from edge.capture.onvif import read_account
    from edge.doctor import doctor_cameras
    config = _load(args) if args.config or _site_config() else None
    try:
        account = read_account(args.credentials) if args.credentials else None
    except ValueError as error:
        raise Refused(f"{error}. No camera was asked.") from None
    return doctor_cameras(config, args.address, account, args.json)


def _doctor_reader(args: argparse.Namespace) -> int:
    from edge.config import ReaderSection
    from edge.doctor_reader import doctor_reader
    named = {key: value for key, value in (("port", args.port), ("usb", args.usb)) if value is not None}
    config = _load(args) if args.config or (_site_config() and not named) else None
    try:
        section = ReaderSection(**named) if named else config.reader if config else ReaderSection()
    except ValueError:
        raise Refused(f"{args.usb!r} names no USB reader; one looks like 0400:c35a or 0400:c35a@1-1.2. Nothing was opened.") from None
    return doctor_reader(section, args.seconds, config.room.allow_demo_ids if config else True, args.json)


# ---- evidence ---------------------------------------------------------------------------------------------------------

def _export(args: argparse.Namespace) -> int:
    """The running room says what leaves and journals it, because it alone writes the journal; without one, the same code does."""
    from edge import app
    from edge.export import Order
    _must_be_session(args.session)
    if args.full and not (args.by and args.reason):
        raise Refused("--full needs --by STAFF_ID of an auditor and --reason. Nothing was written.")
    pin = ""
    if args.full:
        pin = args.secrets_from.read_text(encoding="utf-8").strip() if args.secrets_from else getpass.getpass(f"PIN of {args.by}: ")
    to = args.to.resolve()
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise Refused(f"{to} is there already; nothing was written. Name a new one.")
    order = Order(args.session, args.by or "local", "zip" if to.suffix == ".zip" else "folder", args.full, args.reason or "", pin)
    try:
        done = asyncio.run(app.export_session(_load(args), order, to, _progress))
    except app.Refused as refused:
        raise Refused(_in_words(refused)) from None
    except FileExistsError as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Refused(_why_not_written(error, to)) from error
    return _handed_out(args, done)


def _why_not_written(error: OSError, to: Path) -> str:
    hint = {errno.ENOSPC: "There is not enough room there.",
            errno.EFBIG: "Its file system takes no file so large (FAT: 4 GB): format it exFAT, or export into a folder."}
    again = " The same command goes on where it broke off." if to.suffix == ".zip" else " What is there is incomplete: name a new folder."
    return f"{to} cannot be written ({error.strerror}). {hint.get(error.errno or 0, '')} The session itself is untouched.{again}"


def _handed_out(args: argparse.Namespace, done: HandedOut) -> int:
    wrong = [*(f"MISSING: {name}" for name in done.missing), *(f"ALTERED: {name}" for name in done.altered)]
    report, good = done.report, not done.altered and not done.missing and (done.report is None or done.report.verdict != "FAIL")
    if args.json:
        print(json.dumps({
            "to": str(args.to), "files": done.files, "bytes": done.bytes, "export_id": done.export_id, "went_on_from": done.went_on_from,
            "missing": done.missing, "altered": done.altered, "verdict": report.verdict if report else None}, ensure_ascii=False))
        return 0 if good else 1
    if done.went_on_from:
        print(f"went on after {done.went_on_from:,} bytes that were there and right")
    if report is not None:
        print("\n".join([*report.lines, f"{report.verdict}: {report.first}" if report.first else report.verdict]))
    print("\n".join([*wrong, f"written to {args.to}: {done.files} files, {done.bytes:,} bytes, export id {done.export_id}",
                     "each file's SHA-256 was compared as it was written" + ("" if good else "; NOT ALL IS RIGHT, see above"),
                     "an auditor begins with VERIFY.md; index.html plays the footage"]))
    return 0 if good else 1


def _verify(args: argparse.Namespace) -> int:
    from edge import verifying
    if (args.store is None) == (args.folder is None):
        raise Refused("name a folder to check, or --store for this room's own store. Nothing was checked.")
    config = _load(args) if args.store is not None else None
    if args.store:
        _must_be_session(args.store)
    try:
        return verifying.run(verifying.Order(args.folder, args.root, tuple(args.receipts), args.schedule, args.since, tuple(args.crl),
                                             args.store, args.json, args.sm2_root, args.sm2_distid), config)
    except verifying.NotVerifiable as error:
        raise Refused(str(error)) from error


# ---- the archive ------------------------------------------------------------------------------------------------------

def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty() and total:
        print(f"\r{done * 100 // total:3d} %", end="" if done < total else "\n", file=sys.stderr, flush=True)


# ---- upkeep -----------------------------------------------------------------------------------------------------------

def _reindex(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.reindex import must_rest
    config = _load(args)
    must_rest(config.paths.run)
    return _rebuild(config, SystemClock().now().utc_us, args.json)


def _rebuild(config: Config, now_utc_us: int, as_json: bool = False) -> int:
    from edge.capture.storage_id import check_storage
    from edge.evidence.chain import link
    from edge.reindex import reindex
    from edge.storage.database import Database
    from edge.storage.journal import Journal
    check_storage(config.paths.footage, _pinned(config))
    database = Database(config.paths.state / "edge.db")
    try:
        done = reindex(config.paths.footage, database, Journal(database, link), now_utc_us, _progress)
    finally:
        database.close()
    if as_json:
        print(json.dumps({"segments": done.segments, "bytes": done.bytes, "streams": done.streams, "left": done.left,
                          "unaccounted": done.unaccounted, "refused": [{"path": path, "why": why} for path, why in done.refused]}))
        return 1 if done.refused else 0
    print(f"{done.segments} segments of {len(done.streams)} streams are in the catalog, {done.bytes / 1e9:.1f} GB"
          + (f"; the room itself takes in the {done.left} newest at its next start" if done.left else ""))
    if done.unaccounted:
        print("the journal does not know all of the time of this footage; what is of that time is kept until somebody decides")
    for path, why in done.refused:
        print(f"not taken in: {path}: {why}")
    return 1 if done.refused else 0


def _fsck(args: argparse.Namespace) -> int:
    from edge.fsck.check import check, lines
    outcome = check(_load(args), repair=args.repair, deep=args.deep, progress=_stage)
    print(json.dumps(outcome.as_json(), ensure_ascii=False) if args.json else "\n".join(lines(outcome)))
    return 1 if outcome.left else 0


def _backup_make(args: argparse.Namespace) -> int:
    from edge import backup
    from edge.clock import SystemClock
    made = backup.make(_load(args), args.to, SystemClock().now(), args.keys_to, _stage)
    print(f"{len(made.files)} files, journal up to row {made.journal_seq}, written to {args.to}")
    print(f"look at it now: edge backup verify {args.to}")
    print("names and numbers of people are in it: keep it where only those may read it who may read the room's disk")
    if made.keys:
        print(f"keys: {', '.join(made.keys)}: " + (f"in {args.keys_to}" if args.keys_to else "not in it (--keys-to)"))
    return 0


def _backup_verify(args: argparse.Namespace) -> int:
    from edge import backup
    wrong = backup.verify(args.folder, _stage)
    print("\n".join(wrong) if wrong else "whole: every file, the database, and the journal's chain to its head")
    return 1 if wrong else 0


def _backup_restore(args: argparse.Namespace) -> int:
    from edge import backup
    from edge.clock import SystemClock
    from edge.reindex import must_rest
    config, now = _load(args), SystemClock().now()
    must_rest(config.paths.run)
    made = backup.restore(config, args.folder, now, args.keys_from, _stage)
    print(f"restored as of {made.made_utc}, journal row {made.journal_seq}. Footage since then is kept, whatever its age.")
    if missing := backup.missing_keys(config, made):
        print(f"the room cannot start without its keys: {', '.join(missing)}; put them into {config.paths.state}, or make new ones")
    print("tell the province before the next session: what was sent to it since that moment is not in this journal")
    return _rebuild(config, now.utc_us)


def _stage(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty() and total:
        print(f"\r{what} {done * 100 // total:3d} %", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _archives(args: argparse.Namespace) -> list[Archive]:
    """The buckets as named; what is not said comes from --config."""
    from edge.clock import SystemClock
    from edge.upload.archive import Archive, Place, read_credentials
    ours = _load(args).archive if args.config else None
    path = args.credentials or (ours.credentials if ours else None)
    access_key, secret_key = read_credentials(path) if path else (None, None)
    endpoint, ca, region = (getattr(args, name) or (getattr(ours, name) if ours else None) for name in ("endpoint", "ca", "region"))
    # the store refuses requests of a clock that is a quarter of an hour off: that vouches for this one
    return [Archive(Place(bucket, endpoint, access_key, secret_key, ca, region or "us-east-1"), SystemClock(), lambda: True)
            for bucket in args.bucket]


def _archive_found(args: argparse.Namespace) -> Found:
    from edge import retrieval
    _must_be_session(args.session)
    return retrieval.find(_archives(args), args.session)


def _archive_find(args: argparse.Namespace) -> int:
    from edge import retrieval
    facts = retrieval.describe(_archive_found(args))
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    for name, value in facts.items():
        parts = [f"{k} {v}" for k, v in value.items()] if isinstance(value, dict) else value if isinstance(value, list) else [str(value)]
        print(f"{name.replace('_', ' '):<18}{', '.join(parts)}")
    return 0


def _archive_get(args: argparse.Namespace) -> int:
    from edge import retrieval
    from edge.clock import SystemClock
    from edge.evidence import bundle
    found = _archive_found(args)
    retrieval.record_access(found.first(), SystemClock(), args.session, args.by, args.reason, "get")
    problems = retrieval.fetch(found, args.to, _progress)
    report = bundle.verify(args.to, _root_of(args))
    print("\n".join([*report.lines, *(f"archive: {each}" for each in problems),
                     f"{report.verdict}: {report.first}" if report.first else report.verdict]))
    print(f"written to {args.to}; an auditor begins with VERIFY.md")
    return 0 if report.verdict != "FAIL" else 1


def _archive_verify(args: argparse.Namespace) -> int:
    from edge import retrieval
    from edge.clock import SystemClock
    found = _archive_found(args)
    retrieval.record_access(found.first(), SystemClock(), args.session, args.by, args.reason, "verify")
    verified = retrieval.verify(found, _root_of(args), args.work, _progress)
    report = verified.report
    if args.json:
        print(json.dumps({"verdict": report.verdict, "first": report.first, "lines": list(report.lines), "archive": verified.problems},
                         ensure_ascii=False))
    else:
        print("\n".join([*report.lines, *(f"archive: {each}" for each in verified.problems),
                         f"{report.verdict}: {report.first}" if report.first else report.verdict]))
    return 0 if report.verdict != "FAIL" and not verified.problems else 1


def _root_of(args: argparse.Namespace) -> bytes | None:
    return args.root.read_bytes() if args.root else None


def _archive_test(args: argparse.Namespace) -> int:
    import time

    from edge.clock import SystemClock
    from edge.upload.archive import PROBE_LOCK_S
    sure = True
    for archive in _archives(args):
        days = archive.default_lock()
        stored = archive.self_test(f"v1/probe/by-hand/{SystemClock().now().utc_us}")
        print(f"{archive.place.bucket}: shortening and deleting a locked object were refused; default lock: "
              f"{'not to be asked' if days is None else f'{days} days' if days else 'NONE'}")
        print(f"waiting {PROBE_LOCK_S} s for the probe's lock to end …", file=sys.stderr)
        while (may := archive.may_delete(stored)) is None:
            time.sleep(1)
        print("WORM: it was the lock that held, for when it had ended the probe could be deleted" if may else
              "these credentials may delete nothing anyway: right for a room. Test once with those of somebody who may")
        sure = sure and days != 0
    return 0 if sure else 1


def _archive_expire(args: argparse.Namespace) -> int:
    from edge import retrieval
    from edge.clock import SystemClock
    from edge.evidence.signers import open_signer
    found = _archive_found(args)
    going = retrieval.expirable(found, SystemClock())
    if not args.delete:
        print(f"{len(going)} objects of {args.session} would go, {sum(v.bytes for _, v in going)} bytes. Nothing was deleted; "
              "--delete does it.")
        return 0
    if not args.by:
        raise Refused("--by is needed: who orders it? Nothing was deleted.")
    config = _load(args) if args.config else None
    key = args.key or (config.in_state(config.evidence.key) if config else None)
    certificate = args.certificate or (config.in_state(config.evidence.certificate) if config else None)
    if key is None or certificate is None:
        raise Refused("--key and --certificate (or --config) are needed: the record of disposal is signed. Nothing was deleted.")
    gone = retrieval.expire(found, SystemClock(), open_signer(key, certificate), args.by)
    print(f"{gone} objects deleted; a signed record stays in the archive")
    return 0


# ---- staff, keys, storage ---------------------------------------------------------------------------------------------

def _staff_add(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.storage.staff import StaffBook
    book = StaffBook(_load(args).paths.state / "staff.json", SystemClock())
    if args.secrets_from:
        lines = args.secrets_from.read_text(encoding="utf-8").splitlines()
        if len(lines) < 2:
            raise Refused(f"{args.secrets_from} must hold two lines: password, PIN")
        password, pin = lines[0], lines[1]
    else:
        password, pin = getpass.getpass("password to log in: "), getpass.getpass("PIN to sign: ")
    try:
        book.add(args.staff_id, args.name, args.role, password, pin)
    except ValueError as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    print(f"{args.staff_id} may log in as {args.role}. The running room knows already.")
    return 0


def _staff_list(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.storage.staff import StaffBook
    for member in StaffBook(_load(args).paths.state / "staff.json", SystemClock()).members.values():
        print(f"{member.staff_id:<16}{member.role:<10}{member.name}")
    return 0


def _staff_remove(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.storage.staff import StaffBook
    if not StaffBook(_load(args).paths.state / "staff.json", SystemClock()).remove(args.staff_id):
        raise Refused(f"there is no {args.staff_id}. Nothing was changed.")
    print(f"{args.staff_id} can no longer log in; what was signed stays signed.")
    return 0


def _roster_import(args: argparse.Namespace) -> int:
    """Two requests: what would change, and (with the signatures) take exactly that."""
    from edge import app
    from edge.rosterfile.table import MOST_BYTES
    _must_be_session(args.session)
    with args.file.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise Refused(f"{args.file} is larger than {MOST_BYTES >> 20} MB; keep only the sheet with the list. Nothing was changed.")
    config = _load(args)
    try:
        shown = asyncio.run(app.import_roster(config, args.session, data))
        print("\n".join(_preview(shown)))
        if args.dry_run or shown["faults"] or shown["bar"]:
            return 1 if shown["faults"] or shown["bar"] not in ("", "roster-is-the-same") else 0
        if args.expect and shown["digest"] != args.expect:
            raise Refused("what would change is no longer what you expect. Nothing was changed; look at it again with --dry-run")
        asyncio.run(app.import_roster(config, args.session, data, digest=shown["digest"], **_signatures(args)))
    except app.Refused as refused:
        raise Refused(_in_words(refused)) from None
    print(f"imported: {shown['people']} people are the list of {args.session} now")
    return 0


def _in_words(refused: AppRefused) -> str:
    """What the room would not do, and what to do."""
    texts = _english()
    return " ".join(texts.word("en", family, refused.word, **refused.facts) for family in ("refusal", "refusal-next"))


def _signatures(args: argparse.Namespace) -> dict[str, str]:
    if not (args.by and args.second and args.reason):
        raise Refused("--by, --second and --reason are needed to import. Nothing was changed; --dry-run needs none of them")
    if args.secrets_from:
        pins = args.secrets_from.read_text(encoding="utf-8").splitlines()
        if len(pins) < 2:
            raise Refused(f"{args.secrets_from} must hold two lines: the chief's PIN, the second person's. Nothing was changed")
    else:
        pins = [getpass.getpass(f"PIN of {args.by}: "), getpass.getpass(f"PIN of {args.second}: ")]
    return {"by": args.by, "pin": pins[0], "second": args.second, "second_pin": pins[1], "reason": args.reason}


def _preview(shown: dict[str, Any]) -> Iterator[str]:
    """What an import would change, people masked as on the pages."""
    texts = _english()

    def column(key: str) -> str:
        return texts.word("en", "import-column", key)

    for fault in shown["faults"]:
        facts = {key: column(str(value)) if key == "column" else value for key, value in fault["facts"].items()}
        where = f"row {fault['row']}, {column(fault['column'])}: " if fault["row"] else ""
        yield where + texts.word("en", "import-fault", fault["word"], **facts)
    if shown["faults"]:
        yield f"faults in the file: {len(shown['faults'])}. Nothing was changed; mend it and try again"
        return
    for sign, people in (("+", shown["added"]), ("-", shown["removed"]), ("~", shown["changed"])):
        for person in people:
            fields = ", ".join(f"{column(key)} {before} -> {after}" for key, (before, after) in person.get("fields", {}).items())
            yield f"{sign} {person['seat'] or '–':<4} {person['name']} {person['number']}" + (f"  {fields}" if fields else "")
    if shown["unused"]:
        yield texts.say("en", "import.unused", names=", ".join(shown["unused"]))
    if shown["passed_over"]:
        yield texts.say("en", "import.passed-over", rows=", ".join(map(str, shown["passed_over"])))
    yield (f"{shown['people']} people in the file: {len(shown['added'])} added, {len(shown['removed'])} taken off, "
           f"{len(shown['changed'])} changed; digest {shown['digest']}")
    if shown["bar"]:
        yield f"{texts.word('en', 'refusal', shown['bar'])} {texts.word('en', 'refusal-next', shown['bar'])}"


def _english() -> Texts:
    from edge.web.texts import Texts
    return Texts.load()


def _must_be_session(text: str) -> None:
    if not re.fullmatch(r"S[0-9]{8}-[A-Z0-9]{4}-R[0-9]{2}-[0-9]{2}", text):
        raise Refused(f"{text!r} is no session's id; one looks like S20261126-KD01-R01-02. Nothing was written.")


def _key_init(args: argparse.Namespace) -> int:
    config = _load(args)
    if args.sm2:
        return _sm2_init(args, config)
    from edge import keyring
    _make_and_request(args, config.in_state(config.evidence.key), _device(args, config))
    keyring.hand_over(_key_files(config))
    print("send this request to the authority; then: edge key install --certificate … --root …", file=sys.stderr)
    return 0


def _key_roll(args: argparse.Namespace) -> int:
    from edge import keyring
    config = _load(args)
    files = _key_files(config)
    try:
        if args.withdraw:
            print("taken back; the key in force goes on" if keyring.withdraw(files) else "nothing waits to follow; nothing was changed")
            return 0
    except keyring.Unfit as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    if not files.certificate.exists():
        raise Refused("the key in force has no certificate yet: edge key install. Nothing was changed.")
    _make_and_request(args, files.next_key, _device(args, config))
    keyring.hand_over(files)
    print("send this request to the authority; then: edge key install --certificate …. Until then the key in force goes on signing",
          file=sys.stderr)
    return 0


def _make_and_request(args: argparse.Namespace, path: Path, device: str) -> None:
    from edge.evidence import keys, signers
    try:
        keys.san_uri("device", device)
        key = signers.make_key(path, args.place, module=args.module and args.module.resolve(), token=args.token,
                               pin=args.pin_file and args.pin_file.resolve(), sealed_to=args.sealed_to)
        sys.stdout.write(keys.request(signers.Borrowed(key), device).decode())
    except FileExistsError as error:
        raise Refused(f"{path} exists: there is a key already, and nothing was changed. For a new request of the same key: edge key csr"
                      f"{' --next' if path.name.startswith(signers.NEXT) else ''}.") from error
    except (signers.SignerFault, ValueError) as error:
        raise Refused(f"{error}. No key is in force that was not before.") from error


def _key_csr(args: argparse.Namespace) -> int:
    from edge.evidence import keys, signers, sm2
    config = _load(args)
    try:
        if args.sm2:
            if config.evidence.sm2_key is None:
                raise Refused("evidence.sm2_key is not set: there is no second signature here")
            sys.stdout.write(sm2.sm2_request(config.in_state(config.evidence.sm2_key), _device(args, config)).decode())
            return 0
        path = _key_files(config).next_key if args.next else config.in_state(config.evidence.key)
        sys.stdout.write(keys.request(signers.Borrowed(signers.open_key(path)), _device(args, config)).decode())
    except (OSError, ValueError, sm2.Sm2Fault) as error:
        raise Refused(f"{error}. `edge key init` makes the key, `edge key roll` the next one.") from error
    return 0


def _sm2_init(args: argparse.Namespace, config: Config) -> int:
    from edge import durable
    from edge.evidence import keys, sm2
    if config.evidence.sm2_key is None:
        raise Refused("name the key's file first: evidence.sm2_key, sm2_certificate and sm2_distid of the configuration. Nothing was made.")
    path = config.in_state(config.evidence.sm2_key)
    try:
        keys.san_uri("device", _device(args, config))
        durable.make_folder(path.parent)
        durable.write_new(path, sm2.make_sm2_key(), 0o600)
        sys.stdout.write(sm2.sm2_request(path, _device(args, config)).decode())
    except FileExistsError as error:
        raise Refused(f"{path} exists: there is an SM2 key already, and nothing was changed") from error
    except (ValueError, sm2.Sm2Fault) as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    chain = config.in_state(config.evidence.sm2_certificate or path)
    print(f"send this request to the authority; put the chain that comes back at {chain}", file=sys.stderr)
    return 0


def _key_install(args: argparse.Namespace) -> int:
    from edge import keyring
    from edge.clock import SystemClock
    from edge.evidence.signers import SignerFault
    config = _load(args)
    files = _key_files(config)
    if args.root is None and not files.root.exists():
        raise Refused("the authority's root is needed: --root. Nothing was changed.")
    try:
        word = keyring.install(files, args.certificate.read_bytes(), (args.root or files.root).read_bytes(), SystemClock().now().utc_us)
    except (ValueError, SignerFault) as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    keyring.hand_over(files)
    print({"installed": "installed; restart the room (systemctl restart edge)",
           "same": "this certificate is in force already; the root was put in place",
           "staged-renewal": "it takes over when the room starts next while no session is under way (systemctl restart edge)",
           "staged-key": "the next key takes over when the room starts next while no session is under way (systemctl restart edge); "
                         "the key in force signs that"}[word])
    return 0


def _key_status(args: argparse.Namespace) -> int:
    from edge import keyring
    from edge.clock import SystemClock
    config = _load(args)
    found = keyring.status(_key_files(config), SystemClock().now().utc_us, lambda signer: signer.sign(b"edge key status"))
    if args.json:
        print(json.dumps({"ok": not found.todo, "lines": [list(each) for each in found.lines], "todo": list(found.todo)},
                         ensure_ascii=False))
    else:
        print("\n".join([*(f"{title:<24}{text}" for title, text in found.lines), *(f"TO DO: {each}" for each in found.todo)]))
    return 1 if found.todo else 0


def _device(args: argparse.Namespace, config: Config) -> str:
    """As asked for; else as the certificate in force has it: a device keeps its name."""
    from edge.keyring import device_of
    return args.device or device_of(_key_files(config)) or f"{config.room.code}-E1"


def _key_files(config: Config) -> Files:
    from edge.keyring import Files
    return Files(*(config.in_state(getattr(config.evidence, name)) for name in ("key", "certificate", "root")))


def _storage_init(args: argparse.Namespace) -> int:
    from edge import durable
    from edge.capture.storage_id import init_storage
    config = _load(args)
    identity = init_storage(config.paths.footage)
    durable.make_folder(config.paths.state)
    durable.replace(config.paths.state / "storage.uuid", identity.encode() + b"\n")
    print(f"{config.paths.footage} is storage {identity}; this room records there and nowhere else")
    return 0


# ---- keeping ----------------------------------------------------------------------------------------------------------

def _retention_report(args: argparse.Namespace) -> int:
    from edge import app
    if args.days < 0:
        raise Refused("--days is a number of days ahead, 0 or more")
    shown = asyncio.run(app.retention_report(_load(args), args.days))
    print(json.dumps(shown, ensure_ascii=False) if args.json else "\n".join(_retention_lines(shown)))
    return 0


def _retention_lines(shown: dict[str, Any]) -> Iterator[str]:
    """The report for people; no person in it."""
    texts, space, store = _english(), shown["space"], shown["store"]
    for line in shown["sessions"]:
        why = "; ".join(texts.word("en", "keeping-bar", bar) for bar in line["bars"]) or (
            "goes in the next pass" if line["approved"] or (line["expired"] and not shown["asks"]) else
            "waits for an auditor's consent" if line["expired"] else "goes after its day")
        yield f"{line['session']}  kept until {line['kept_until']}  {line['policy']}  {line['bytes'] / 1e9:.1f} GB  {why}"
    if not shown["sessions"]:
        yield f"no session's time is over within {shown['days']} days"
    for hold in shown["holds"]:
        yield f"on hold: {hold['session']}  {hold['hold_id']}  since {hold['since']}  by {hold['by']}: {hold['reason']}"
    if shown["halted"]:
        yield texts.word("en", "keeping-halted", shown["halted"])
    due = shown["due"]
    yield f"due now: {due['sessions']} sessions, {due['bytes'] / 1e9:.1f} GB; digest {due['digest']}"
    yield f"stored: {store['sessions']} sessions, {store['bytes'] / 1e9:.1f} GB; oldest exam day kept: {shown['oldest_kept'] or 'none'}"
    yield f"terms are judged by {shown['day'] or 'no day: no time that can be believed'}; last pass {shown['last_pass'] or 'not yet'}"
    yield (f"disk: {space['free_bytes'] / 1e9:.0f} GB free, {space['needed_bytes'] / 1e9:.0f} GB needed for two days' plan; full in "
           f"{space['days_left']} days at the pace of exams; holds {space['years_x10'] / 10:.1f} years, {space['need_years_x10'] / 10:.1f} "
           f"are asked; other files {space['foreign_bytes'] / 1e9:.0f} GB")
    if space["trouble"]:
        yield texts.word("en", "keeping-space", space["trouble"])


def _retention_approve(args: argparse.Namespace) -> int:
    from edge import app
    config = _load(args)
    shown = asyncio.run(app.retention_report(config, 0))
    print("\n".join(_retention_lines(shown)))
    digest = args.expect or shown["due"]["digest"]
    answer = _ask(config, "POST", "/retention/approve", {"digest": digest, "by": args.by, "pin": _pin(args)})
    print(f"agreed: {answer['sessions']} sessions go in the next passes")
    return 0


def _retention_lengthen(args: argparse.Namespace) -> int:
    _must_be_session(args.session)
    _ask(_load(args), "POST", f"/sessions/{args.session}/lengthen",
         {"keep_until": args.until, "by": args.by, "pin": _pin(args), "reason": args.reason})
    print(f"{args.session} is kept until {args.until}")
    return 0


def _hold_place(args: argparse.Namespace) -> int:
    _must_be_session(args.session)
    _ask(_load(args), "POST", f"/sessions/{args.session}/place_hold", {"by": args.by, "pin": _pin(args), "reason": args.reason})
    print(f"{args.session} is on hold: nothing of it goes until the hold is released (`edge hold list` shows its id)")
    return 0


def _hold_release(args: argparse.Namespace) -> int:
    _must_be_session(args.session)
    _ask(_load(args), "POST", f"/sessions/{args.session}/release_hold",
         {"hold_id": args.hold_id, "by": args.by, "pin": _pin(args), "reason": args.reason})
    print(f"{args.hold_id} is released; {args.session} is kept until its date, and while other holds stand")
    return 0


def _hold_list(args: argparse.Namespace) -> int:
    from edge import app
    for hold in asyncio.run(app.retention_report(_load(args), 0))["holds"]:
        print(f"{hold['session']}  {hold['hold_id']}  {hold['since']}  {hold['by']}  {hold['reason']}")
    return 0


def _ask(config: Config, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request to the running room; its refusal in words."""
    from edge import app
    try:
        return asyncio.run(app.ask_room(config, method, path, body))
    except app.Refused as refused:
        texts = _english()
        raise Refused(f"{texts.word('en', 'refusal', refused.word, **refused.facts)} "
                      f"{texts.word('en', 'refusal-next', refused.word, **refused.facts)}") from None


def _pin(args: argparse.Namespace) -> str:
    if args.secrets_from is None:
        return getpass.getpass(f"PIN of {args.by}: ")
    lines: list[str] = args.secrets_from.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise Refused(f"{args.secrets_from} must hold one line, the PIN. Nothing was changed")
    return lines[0]


# ---- simulated devices ------------------------------------------------------------------------------------------------

def _sim_reader(args: argparse.Namespace) -> int:
    from edge.sim.card_reader import run_card_reader
    return run_card_reader(args.link, args.control)


def _sim_tap(args: argparse.Namespace) -> int:
    from edge.sim.card_reader import run_tap
    return run_tap(args.name, _sim_control(args))


def _sim_fault(args: argparse.Namespace) -> int:
    from edge.sim.card_reader import run_fault
    return run_fault(" ".join(args.words), _sim_control(args))


def _sim_control(args: argparse.Namespace) -> Path:
    if args.control is not None:
        return Path(args.control)
    return _demo_config(", or name the reader's socket with --control").paths.run / "sim-card-reader.sock"


def _demo_config(otherwise: str = "") -> Config:
    from edge import demo
    from edge.config import load
    path = demo.config_path(demo.default_folder())
    if not path.exists():
        raise Refused(f"no demo room has been started here yet; start it with ./run{otherwise}")
    return load(path)


def _sim_class(args: argparse.Namespace) -> int:
    from edge.sim.platform import ask_for_class
    url = _demo_config().platform.url
    try:
        session = ask_for_class(url)
    except (OSError, ValueError, KeyError) as error:
        raise Refused(f"the simulated platform at {url} published no class ({error}). Is the demo running? Start it with ./run") from error
    print(f"{session} is published; the room shows it within a minute")
    return 0


def _sim_platform(args: argparse.Namespace) -> int:
    from edge.sim.platform import serve_platform
    asyncio.run(serve_platform(args.dir, args.port, args.room, signals=True))
    return 0


def _config(args: argparse.Namespace) -> int:
    from edge.config import table
    print(table(), end="")
    return 0


# ---- which configuration ----------------------------------------------------------------------------------------------

def _site_config() -> Path | None:
    named = os.environ.get("EDGE_CONFIG")
    if named:
        return Path(named)
    return SITE_CONFIG if SITE_CONFIG.exists() else None


def _config_path(args: argparse.Namespace) -> Path:
    path: Path | None = args.config or _site_config()
    if path is None:
        from edge import demo
        path = demo.config_path(demo.default_folder())
    return path.resolve()


def _load(args: argparse.Namespace) -> Config:
    from edge.config import load
    return load(_config_path(args))


def _pinned(config: Config) -> str | None:
    from edge.capture.storage_id import pinned
    return pinned(config.paths.state)


if __name__ == "__main__":
    sys.exit(main())
