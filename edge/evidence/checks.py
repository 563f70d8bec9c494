"""The single checks of an exported session, each giving what is wrong in plain words, one text a fault.

They take documents whose signatures hold already, but trust nothing else in them: `shape` comes first and everything after may rely on it.
The journal is the strongest: the manifest is a pure function of it, so it is built again from the exported rows and compared part by part.
Called by `bundle` only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edge.clock import Stamp, iso_utc, parse_utc
from edge.evidence import chain
from edge.evidence.chain import GENESIS, canonical, sha256_hex
from edge.evidence.fault import Fault
from edge.evidence.files import sidecar_path
from edge.evidence.manifest import MANIFEST_TYPES, RoomFacts, find_gaps, manifest, segment_path, session_open
from edge.sessions.events import Recorded, SegmentStored

MEDIA_TOLERANCE_US = 1_000_000
"""How far a segment's media time may be from the time that it says to cover."""
GAP_TOLERANCE_US = 100_000
JOURNAL_MAX_BYTES = 256 << 20

HEX64 = re.compile(r"[0-9a-f]{64}")
_STREAM = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
UTC = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")

Shape = Any
"""A type, a pattern, [shape] for a list of it, {key: shape} for an object with at least these keys."""

SEGMENT_SHAPE: dict[str, Shape] = {
    "stream": _STREAM, "n": int, "seq": int, "path": str, "run": str, "start_utc": UTC, "end_utc": UTC, "start_boot_us": int,
    "end_boot_us": int, "boot_id": str, "dur_us": int, "frame_us": int, "bytes": int, "sha256": HEX64, "sidecar_sha256": HEX64,
    "codec": str, "end_reason": str, "recovered": bool, "clock_state": str, "journal_seq": int, "prev": HEX64,
}
ANCHOR_SHAPE: dict[str, Shape] = {"what": str, "utc": UTC, "boot_us": int, "boot_id": str, "journal_seq": int}
_MOMENT_SHAPE: dict[str, Shape] = {"utc": UTC, "boot_us": int, "boot_id": str}
MANIFEST_SHAPE: dict[str, Shape] = {
    "type": str, "revision": int, "made_utc": UTC, "site": str, "room": str, "outcome": str,
    "session": {"id": str, "plan_id": str, "plan_sha256": HEX64, "kind": str, "scheduled_start": UTC, "duration_min": int,
                "opened_utc": UTC, "closed_utc": UTC, "sealed_utc": UTC},
    "device": {"id": str, "cert_sha256": HEX64, "boot_id": str, "sw_version": str, "sw_sha256": HEX64, "config_sha256": HEX64},
    "counters": {"session_seq": int, "opened_total": int, "closed_total": int, "hw_counter_kind": str},
    "prev": {}, "open": {"open_sha256": HEX64, "open_receipt_sha256": str},
    "journal": {"first": int, "last": int, "count": int, "head_sha256": HEX64, "rows_sha256": HEX64},
    "interval": {"start": _MOMENT_SHAPE, "end": _MOMENT_SHAPE},
    "roster": {"version": int, "count": int, "sha256": HEX64, "source": str, "hmac_key_id": str},
    "attendance": [{"candidate_id": str, "result": str, "journal_seq": int}],
    "identity_checks": [{"result": str, "at": UTC, "journal_seq": int}],
    "staff": [{"staff_id": str, "role": str, "at": UTC, "journal_seq": int}],
    "signers": [{"staff_id": str, "role": str, "at": UTC, "statement": str}],
    "preflight": {"readings": {}, "waivers": [{}], "exits_checked": [{}]},
    "incidents": [{"journal_seq": int, "code": str, "at": UTC}],
    "streams": [{"id": _STREAM, "kind": str, "expected": bool, "codecs": [str]}],
    "segments": [SEGMENT_SHAPE],
    "gaps": [{"stream": _STREAM, "from_utc": UTC, "to_utc": UTC, "dur_us": int, "reason": str, "journal_seq": int}],
    "clock": {"require_sync": bool, "at_open": str, "states": {},
              "steps": [{"at": UTC, "boot_us": int, "boot_id": str, "delta_us": int, "journal_seq": int}]},
    "totals": {}, "retention": {"policy": str, "keep_until": str, "basis": str},
}
OPTIONAL: dict[str, Shape] = {
    "amends": HEX64, "amend_reason_sha256": HEX64,
    "impairments": [{"stream": _STREAM, "rule": str, "since_utc": UTC, "journal_seq": int}],
}
"""Parts that are left out where they have nothing to say."""


def shape(document: dict[str, Any]) -> str:
    """What is amiss with the form of a manifest; empty if nothing is. Values are judged by the checks that follow."""
    if document.get("type") not in MANIFEST_TYPES.values():
        return f"it is a {document.get('type')!r}, not a {MANIFEST_TYPES[1]} to v{max(MANIFEST_TYPES)}"
    if unknown := set(document) - set(MANIFEST_SHAPE) - set(OPTIONAL):
        return f"it holds parts that this verifier does not know: {', '.join(sorted(unknown))}"
    amiss = misfit(document, MANIFEST_SHAPE | {key: each for key, each in OPTIONAL.items() if key in document}, "")
    return amiss or _version_misfit(document)


def version_of(document: Mapping[str, Any]) -> int:
    """Of a manifest that `shape` found nothing amiss with."""
    return next(version for version, kind in MANIFEST_TYPES.items() if kind == document["type"])


def _version_misfit(document: Mapping[str, Any]) -> str:
    """What a version has and another has not: anchors of the clock since 2, and a counter's value exactly where it names its kind."""
    counters, clock = document["counters"], document["clock"]
    if (counters["hw_counter_kind"] == "none") == ("hw_counter" in counters) or type(counters.get("hw_counter", 0)) is not int:
        return "counters.hw_counter does not fit its kind"
    if len({document["type"] != MANIFEST_TYPES[1], "anchors" in clock, "close_reason" in document["session"]}) != 1:
        return "clock.anchors or session.close_reason is not what this version has"
    fields = {"max_error_us": int, "offset_us": int, "state": str, "source": str}
    extra = [{key: kind for key, kind in fields.items() if key in each} for each in clock.get("anchors", ()) if isinstance(each, dict)]
    return misfit(clock.get("anchors", []), [ANCHOR_SHAPE], "clock.anchors") or next(
        filter(None, (misfit(each, shape, "clock.anchors") for each, shape in zip(clock.get("anchors", ()), extra, strict=True))), "")


def misfit(value: Any, wanted: Shape, where: str) -> str:
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            return f"{where or 'it'} is not an object"
        return next(filter(None, (misfit(value.get(key), each, f"{where}.{key}".lstrip(".")) for key, each in wanted.items())), "")
    if isinstance(wanted, list):
        if not isinstance(value, list):
            return f"{where} is not a list"
        return next(filter(None, (misfit(each, wanted[0], f"{where}[{index}]") for index, each in enumerate(value))), "")
    if isinstance(wanted, re.Pattern):
        good = isinstance(value, str) and wanted.fullmatch(value) and (wanted is not UTC or _is_time(value))
        return "" if good else f"{where} does not have its form"
    return "" if type(value) is wanted else f"{where} is not {wanted.__name__}"


def _is_time(text: str) -> bool:
    try:
        return parse_utc(text) >= 0
    except (ValueError, OverflowError):
        return False


# ---- documents against each other -------------------------------------------------------------------------------------

def same_session(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Fault]:
    """Two documents of the device speak of the same session, room and device."""
    for key, inner in (("session", "id"), ("device", "id")):
        mine, yours = (each.get(key) for each in (one, other))
        if not isinstance(mine, dict) or not isinstance(yours, dict) or mine.get(inner) != yours.get(inner):
            yield Fault("other-document", f"it speaks of another {key}")
    if one.get("room") != other.get("room"):
        yield Fault("other-document", "it speaks of another room")


def revisions(documents: Sequence[dict[str, Any]], digests: Sequence[str]) -> Iterator[Fault]:
    """Each revision amends the one before by its id and only adds to its segments."""
    for index, (document, before) in enumerate(zip(documents[1:], documents, strict=False)):
        name = f"revision {document['revision']}"
        yield from (Fault("other-document", f"{name}: {problem}") for problem in same_session(document, before))
        if document.get("amends") != digests[index]:
            yield Fault("revision", f"{name} does not amend revision {before['revision']} as it is shown")
        kept = {(entry["stream"], entry["n"]): entry for entry in document["segments"]}
        for entry in before["segments"]:
            if kept.get((entry["stream"], entry["n"])) != entry:
                yield Fault("revision", f"{name} left out or changed segment {entry['path']} of revision {before['revision']}")
    if documents and documents[0]["revision"] == 1 and "amends" in documents[0]:
        yield Fault("revision", "revision 1 amends something: it is not the first")


def entries(document: dict[str, Any]) -> Iterator[Fault]:
    """Numbers without a hole, paths as they must be, each entry's hash in the next, totals as they add up."""
    n, prev, stream, seen = 0, GENESIS, "", set()
    for entry in document["segments"]:
        if entry["stream"] != stream:
            if entry["stream"] in seen:
                yield Fault("manifest", f"the segments of {entry['stream']} are torn apart")
            n, prev, stream = 0, GENESIS, entry["stream"]
            seen.add(stream)
        n += 1
        if entry["n"] != n:
            yield Fault("manifest", f"segment {n} of {stream} is missing: the next one shown is {entry['n']}")
            n = entry["n"]
        if entry["prev"] != prev:
            yield Fault("manifest", f"the chain of {stream} is broken at segment {n}")
        if entry["path"] != segment_path(stream, n, entry["sha256"]):
            yield Fault("manifest", f"segment {n} of {stream} has a path that is not its own: {entry['path']!r}")
        prev = sha256_hex(canonical(entry))
    for stream in sorted({each["id"] for each in document["streams"]} | seen):
        mine, holes = ([entry for entry in document[part] if entry["stream"] == stream] for part in ("segments", "gaps"))
        sums_up = {"segments": len(mine), "bytes": sum(s["bytes"] for s in mine), "dur_us": sum(s["dur_us"] for s in mine),
                   "gaps": len(holes), "gap_us": sum(g["dur_us"] for g in holes)}
        if document["totals"].get(stream) != sums_up:
            yield Fault("manifest", f"the totals of {stream} are not what its segments and gaps add up to")


# ---- files ------------------------------------------------------------------------------------------------------------

def sums(document: Mapping[str, Any]) -> bytes:
    """`SHA256SUMS` of the media and sidecars as the manifest has them, in sha256sum's own form."""
    return "".join(f"{entry['sha256']}  {entry['path']}\n{entry['sidecar_sha256']}  {sidecar_path(entry)}\n"
                   for entry in document["segments"]).encode()


def own_paths(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries whose path is the one that they must have; the others are said by `entries`, and nothing of theirs is opened."""
    return [entry for entry in document["segments"] if entry["path"] == segment_path(entry["stream"], entry["n"], entry["sha256"])]


# ---- time -------------------------------------------------------------------------------------------------------------

def timeline(document: dict[str, Any]) -> Iterator[Fault]:
    """Every expected stream covers the interval, or says what it lacks; a segment holds about as much as it says to cover."""
    stepped = bool(document["clock"]["steps"])
    for entry in document["segments"]:
        covered = entry["end_boot_us"] - entry["start_boot_us"]
        if abs(covered - entry["dur_us"]) > MEDIA_TOLERANCE_US:
            yield Fault("times", f"{entry['path']} says to cover {seconds(covered)} but holds {seconds(entry['dur_us'])}")
        if abs(parse_utc(entry["end_utc"]) - parse_utc(entry["start_utc"]) - covered) > MEDIA_TOLERANCE_US and not stepped:
            yield Fault("times", f"{entry['path']} has another length by the wall clock than by the boot clock, "
                                 "and no clock step is declared")
    start, end = (_stamp(document["interval"][each]) for each in ("start", "end"))
    expected = [each["id"] for each in document["streams"] if each["expected"]]
    for hole in find_gaps(map(_stored, document["segments"]), expected, start, end):
        if not any(_covers(gap, hole.stream, hole.from_utc_us, hole.to_utc_us) for gap in document["gaps"]):
            yield Fault("undeclared-gap", f"UNDECLARED GAP {hole.stream} {iso_utc(hole.from_utc_us)} – {iso_utc(hole.to_utc_us)} "
                                          f"({seconds(hole.dur_us)})")


def seconds(us: int) -> str:
    """`12.345 s`."""
    return f"{us // 1_000_000}.{us % 1_000_000 // 1000:03d} s"


def _covers(gap: Mapping[str, Any], stream: str, from_us: int, to_us: int) -> bool:
    return bool(gap["stream"] == stream and parse_utc(gap["from_utc"]) <= from_us + GAP_TOLERANCE_US
                and parse_utc(gap["to_utc"]) >= to_us - GAP_TOLERANCE_US)


def _stamp(moment: Mapping[str, Any]) -> Stamp:
    return Stamp(parse_utc(moment["utc"]), moment["boot_us"], moment["boot_id"])


def _stored(entry: dict[str, Any]) -> SegmentStored:
    start = Stamp(parse_utc(entry["start_utc"]), entry["start_boot_us"], entry["boot_id"])
    same = {key: entry[key] for key in ("stream", "seq", "path", "run", "start_boot_us", "end_boot_us", "boot_id", "dur_us", "frame_us",
                                        "bytes", "sha256", "sidecar_sha256", "codec", "end_reason", "recovered", "clock_state")}
    return SegmentStored(at=start, start_utc_us=start.utc_us, end_utc_us=parse_utc(entry["end_utc"]), **same)


# ---- journal ----------------------------------------------------------------------------------------------------------

def journal(name: str, load: Callable[[], bytes], documents: Mapping[int, dict[str, Any]],
            opening: dict[str, Any] | None) -> Iterator[Fault]:
    """Each row is what its hash says, the signed manifests bind exactly these rows, and the rows give exactly these manifests."""
    try:
        *lines, rest = load().split(b"\n")
        if rest:
            raise ValueError("its last line is cut off")
        rows = [chain.from_line(line) for line in lines]
    except (OSError, ValueError) as error:
        yield Fault("journal", f"{name} cannot be read: {error}")
        return
    if (bad := chain.verify(rows, whole=False)) is not None:
        yield Fault("journal", f"{name}: row {bad} was changed or is out of its place")
        return
    yield from rows_make(name, rows, documents, opening)


def rows_make(name: str, rows: list[Recorded], documents: Mapping[int, dict[str, Any]], opening: dict[str, Any] | None) -> Iterator[Fault]:
    """The signed manifests (by revision) bind exactly these rows of one session, and the rows give exactly these manifests."""
    for revision, document in documents.items():
        bound = document["journal"]
        mine = [row for row in rows if row.seq <= bound["last"]]
        listed = sha256_hex("".join(f"{row.seq} {row.hash}\n" for row in mine).encode())
        if len(mine) != bound["count"] or listed != bound["rows_sha256"]:
            yield Fault("journal", f"{name}: the rows up to {bound['last']} are not those that revision {revision} was made of")
            return
        yield from _rebuilt(mine, document, revision)
    if opening is not None:
        yield from _rebuilt_open(rows, opening)
    if any(row.event.session != documents[max(documents)]["session"]["id"] for row in rows):
        yield Fault("journal", f"{name} holds rows of another session")


def _rebuilt(rows: list[Recorded], document: dict[str, Any], revision: int) -> Iterator[Fault]:
    try:
        built = manifest(rows, _room(document), revision)
        canonical(built)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        yield Fault("journal", f"the journal's rows do not make a manifest: {error}")
        return
    yield from _differences(f"revision {revision}: the manifest", built, document)


def _rebuilt_open(rows: list[Recorded], opening: dict[str, Any]) -> Iterator[Fault]:
    try:
        prev = opening["prev"]
        built = session_open(rows, _room(opening), prev.get("manifest_sha256"), prev.get("receipt_sha256"))
        canonical(built)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        yield Fault("journal", f"the journal's rows do not make the session-open: {error}")
        return
    yield from _differences("the session-open", built, opening)


def _differences(whose: str, built: Mapping[str, Any], signed: Mapping[str, Any]) -> Iterator[Fault]:
    for part in sorted(set(built) | set(signed)):
        if built.get(part) != signed.get(part):
            yield Fault("journal", f"{whose}'s {part} is not what the journal says")


def _room(document: Mapping[str, Any]) -> RoomFacts:
    device = document["device"]
    return RoomFacts(
        site=document["site"], room_code=document["room"], device_id=device["id"], cert_sha256=device["cert_sha256"],
        sw_version=device["sw_version"], sw_sha256=device["sw_sha256"], config_sha256=device["config_sha256"], boot_id=device["boot_id"],
        hmac_key_id=document["roster"]["hmac_key_id"], require_sync=document["clock"]["require_sync"])
