"""`edge archive`: sessions in the archive, from any machine that sees the bucket; no room is needed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.configuration import load
from edge.commands.verb import Refused, group, must_be_session, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs
    from edge.retrieval import Found
    from edge.upload.archive import Archive


def add(verbs: Verbs) -> None:
    """find, get, verify, test, expire."""
    archive = group(verbs, "archive", "sessions in the archive, from any machine that sees the bucket; no room is needed: "
                    "find, get, verify, test, expire")

    def each(name: str, run: object, text: str, *, session: bool = True, who: bool = False) -> argparse.ArgumentParser:
        v = verb(archive, name, run, text, described=True)
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

    each("find", _find, "what the archive holds of a session").add_argument("--json", action="store_true", help="as one JSON object")
    v = each("get", _get, "fetch a session as `edge export` would write it, and verify it; goes on where it broke off", who=True)
    v.add_argument("--to", type=Path, required=True, help="a new or empty folder, or one that was begun")
    v = each("verify", _verify, "verify a session's bytes and locks in the archive, keeping nothing", who=True)
    v.add_argument("--work", type=Path, help="folder with room for the whole session meanwhile (default: the system's)")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")
    each("test", _test, "whether the store really locks: takes a minute", session=False)
    v = each("expire", _expire, "delete a session whose locks have run out, leaving a signed record; without --delete only say it")
    v.add_argument("--delete", action="store_true", help="do it")
    v.add_argument("--by", help="who orders it; stays in the record")
    v.add_argument("--key", type=Path, help="key that signs the record (default: the configuration's)")
    v.add_argument("--certificate", type=Path, help="its certificate chain (default: the configuration's)")


def _buckets(args: argparse.Namespace) -> list[Archive]:
    """The buckets as named; what is not said comes from --config."""
    from edge.clock import SystemClock
    from edge.upload.archive import Archive, Place, read_credentials
    ours = load(args).archive if args.config else None
    path = args.credentials or (ours.credentials if ours else None)
    access_key, secret_key = read_credentials(path) if path else (None, None)
    endpoint, ca, region = (getattr(args, name) or (getattr(ours, name) if ours else None) for name in ("endpoint", "ca", "region"))
    # the store refuses requests of a clock that is a quarter of an hour off: that vouches for this one
    return [Archive(Place(bucket, endpoint, access_key, secret_key, ca, region or "us-east-1"), SystemClock(), lambda: True)
            for bucket in args.bucket]


def _found(args: argparse.Namespace) -> Found:
    from edge import retrieval
    must_be_session(args.session)
    return retrieval.find(_buckets(args), args.session)


def _find(args: argparse.Namespace) -> int:
    from edge import retrieval
    facts = retrieval.describe(_found(args))
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
        return 0
    for name, value in facts.items():
        parts = [f"{k} {v}" for k, v in value.items()] if isinstance(value, dict) else value if isinstance(value, list) else [str(value)]
        print(f"{name.replace('_', ' '):<18}{', '.join(parts)}")
    return 0


def _get(args: argparse.Namespace) -> int:
    from edge import retrieval
    from edge.clock import SystemClock
    from edge.evidence import bundle
    from edge.progress import Line
    found = _found(args)
    retrieval.record_access(found.first(), SystemClock(), args.session, args.by, args.reason, "get")
    with Line(sys.stderr) as line:
        problems = retrieval.fetch(found, args.to, line.told)
    report = bundle.verify(args.to, _root_of(args))
    print("\n".join([*report.lines, *(f"archive: {each}" for each in problems),
                     f"{report.verdict}: {report.first}" if report.first else report.verdict]))
    print(f"written to {args.to}; an auditor begins with VERIFY.md")
    return 0 if report.verdict != "FAIL" else 1


def _verify(args: argparse.Namespace) -> int:
    from edge import retrieval
    from edge.clock import SystemClock
    from edge.progress import Line
    found = _found(args)
    retrieval.record_access(found.first(), SystemClock(), args.session, args.by, args.reason, "verify")
    with Line(sys.stderr) as line:
        verified = retrieval.verify(found, _root_of(args), args.work, line.told)
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


def _test(args: argparse.Namespace) -> int:
    import time

    from edge.clock import SystemClock
    from edge.upload.archive import PROBE_LOCK_S
    sure = True
    for archive in _buckets(args):
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


def _expire(args: argparse.Namespace) -> int:
    from edge import retrieval
    from edge.clock import SystemClock
    from edge.evidence.signers import open_signer
    found = _found(args)
    going = retrieval.expirable(found, SystemClock())
    if not args.delete:
        print(f"{len(going)} objects of {args.session} would go, {sum(v.bytes for _, v in going)} bytes. Nothing was deleted; "
              "--delete does it.")
        return 0
    if not args.by:
        raise Refused("--by is needed: who orders it? Nothing was deleted.")
    config = load(args) if args.config else None
    key = args.key or (config.in_state(config.evidence.key) if config else None)
    certificate = args.certificate or (config.in_state(config.evidence.certificate) if config else None)
    if key is None or certificate is None:
        raise Refused("--key and --certificate (or --config) are needed: the record of disposal is signed. Nothing was deleted.")
    gone = retrieval.expire(found, SystemClock(), open_signer(key, certificate), args.by)
    print(f"{gone} objects deleted; a signed record stays in the archive")
    return 0
