"""The clock and the incidents of a manifest against the rest of it: what a list that was put together by hand gets wrong.

Within one boot of the machine, wall clock and boot clock differ by a constant: both are slewed alike, and only a step parts them. So every
point at which both were read together (the anchors, each segment) must fit all others of that boot, but for the steps that the room
declares. A manifest of version 1 has no anchors; then the segments' own runs are all there is.
LIMIT: a run of recording keeps the wall time of its beginning (by design: a step must not tear footage apart). One that began before the
doors opened may lie apart from the room's clock by whatever stepped before; that is no fault. Called by `bundle` and `documents`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from edge.clock import parse_utc
from edge.evidence.fault import Fault

APART_US = 2_100_000
"""Wall and boot clock may part by this without a word: a step is declared from one second on, which either of two readings may lack."""
RUN_US = 2_000
"""Within one run of recording they never part: signed times are cut to whole milliseconds."""
_WHATS = ("open", "checkpoint", "close", "seal")


def clock(document: Mapping[str, Any]) -> Iterator[Fault]:
    """What is amiss with the times of a manifest, beyond its timeline."""
    anchors = document["clock"].get("anchors", [])
    ends = {"open": document["interval"]["start"], "close": document["interval"]["end"]}
    for each in anchors:
        if each["what"] in ends and any(each[key] != ends[each["what"]][key] for key in ("utc", "boot_us", "boot_id")):
            yield Fault("clock", f"the clock's reading at the {each['what']} was not taken when the session says it was")
    yield from _order(anchors)
    yield from _jumps(anchors, document["clock"]["steps"])
    yield from _segments(document["segments"])
    yield from _runs(document, anchors)


def _order(anchors: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """In the order of the journal, each `what` in its place; within a boot the boot clock only goes forward, and no boot comes back."""
    places = [_WHATS.index(each["what"]) if each["what"] in _WHATS else -1 for each in anchors]
    seqs = [each["journal_seq"] for each in anchors]
    if -1 in places or seqs != sorted(set(seqs)) or any(places.count(_WHATS.index(what)) > 1 for what in ("open", "close", "seal")):
        yield Fault("clock", "the clock's readings are not in the order in which the journal has them")
    if 0 in places[1:] or any(later < earlier for earlier, later in pairwise([p for p in places if p != 1])):
        yield Fault("clock", "the clock's readings do not begin with the opening, or opening, close and seal are not in this order")
    seen: list[str] = []
    for before, each in pairwise(anchors):
        if before["boot_id"] == each["boot_id"] and each["boot_us"] < before["boot_us"]:
            yield Fault("clock", f"the boot clock goes back between {before['utc']} and {each['utc']}")
        if each["boot_id"] != before["boot_id"]:
            seen.append(before["boot_id"])
        if each["boot_id"] in seen:
            yield Fault("clock", f"at {each['utc']} the machine runs in a boot that had ended before")


def opening(document: Mapping[str, Any]) -> str | None:
    """The reading at the opening as one text: of a session-open its `anchor`, of a manifest that of its `anchors`. None: it has none.

    Both tell of the same fact, so they are the same; a session may have been opened by a program of before readings were kept."""
    clock = document["clock"]
    found = next((each for each in clock.get("anchors", ()) if each["what"] == "open"), clock.get("anchor"))
    return None if found is None else " ".join(str(found.get(key)) for key in ("utc", "boot_us", "boot_id"))


def _jumps(anchors: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Between two readings of one boot the clocks part by the declared steps between them, and by no more."""
    for before, each in pairwise(anchors):
        if before["boot_id"] != each["boot_id"]:
            continue
        declared = sum(step["delta_us"] for step in steps
                       if step["boot_id"] == each["boot_id"] and before["boot_us"] < step["boot_us"] <= each["boot_us"])
        apart = _offset(each) - _offset(before) - declared
        if abs(apart) > APART_US:
            yield Fault("clock", f"between {before['utc']} and {each['utc']} the wall clock was moved by {apart / 1e6:+.3f} s, and no step "
                                 "is declared")


def _segments(entries: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """Within one run of a stream the two clocks never part: a segment that was given another time shows among its neighbours."""
    runs: dict[tuple[str, str, str], int] = {}
    for entry in entries:
        for end in ("start", "end"):
            offset = parse_utc(entry[f"{end}_utc"]) - entry[f"{end}_boot_us"]
            first = runs.setdefault((entry["stream"], entry["run"], entry["boot_id"]), offset)
            if abs(offset - first) > RUN_US:
                yield Fault("clock", f"{entry['path']}: its {end} is {(offset - first) / 1e6:+.3f} s apart from the rest of its run")
                break


def _runs(document: Mapping[str, Any], anchors: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """A run that began during the session began with the room's clock as it was then."""
    opened, steps = document["interval"]["start"], document["clock"]["steps"]
    begun: set[tuple[str, str]] = set()
    for entry in document["segments"]:
        if (entry["stream"], entry["run"]) in begun:
            continue
        begun.add((entry["stream"], entry["run"]))
        before = [each for each in anchors if each["boot_id"] == entry["boot_id"] and each["boot_us"] <= entry["start_boot_us"]]
        if not before or (opened["boot_id"] == entry["boot_id"] and entry["start_boot_us"] <= opened["boot_us"]):
            continue                    # it began before anything was read in that boot
        last = before[-1]
        since = [step["delta_us"] for step in steps if step["boot_id"] == entry["boot_id"]
                 and last["boot_us"] < step["boot_us"] <= entry["start_boot_us"] + APART_US]
        apart = parse_utc(entry["start_utc"]) - entry["start_boot_us"] - _offset(last)
        if all(abs(apart - sum(since[:count])) > APART_US for count in range(len(since) + 1)):
            yield Fault("clock", f"{entry['path']}: its run began {apart / 1e6:+.3f} s apart from the room's clock at that moment")


def _offset(moment: Mapping[str, Any]) -> int:
    return parse_utc(moment["utc"]) - int(moment["boot_us"])


def notes(document: Mapping[str, Any]) -> Iterator[str]:
    """What an auditor should know of the times, though it is no fault."""
    anchors = document["clock"].get("anchors", [])
    loose = [each for each in anchors if each.get("state") != "synced"]
    if anchors:
        worst = max((each.get("max_error_us", 0) for each in anchors), default=0)
        yield (f"the clock was read {len(anchors)} times with its boot clock; {len(anchors) - len(loose)} times something vouched for it, "
               f"to {worst / 1e6:.3f} s at worst")
    for step in document["clock"]["steps"]:
        yield f"declared clock step: {step['delta_us'] / 1e6:+.3f} s at {step['at']}"
    counters = document["counters"]
    if counters["hw_counter_kind"] == "none":
        yield "no hardware counter: that the whole disk was not set back rests on the platform's receipts alone"
    else:
        yield f"hardware counter ({counters['hw_counter_kind']}) at the opening: {counters.get('hw_counter')}"


# ---- incidents --------------------------------------------------------------------------------------------------------

def incidents(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Whatever else the manifest tells of that is an incident stands among the incidents, at its row of the journal; rows in order.

    The journal, where it is shown, says the same again and more (`checks.rows_make`); this is for documents alone."""
    listed = [each["journal_seq"] for each in document["incidents"]]
    if document["type"].endswith("/v1"):
        if listed:
            yield Fault("incidents", "a list of version 1 has no incidents")
        return
    if listed != sorted(set(listed)) or any(not document["journal"]["first"] <= each <= document["journal"]["last"] for each in listed):
        yield Fault("incidents", "the incidents are not in the order of the journal, or not of this session")
    rows = set(listed)
    known = [("gap", each) for each in document["gaps"]] + [("waiver", each) for each in document["preflight"]["waivers"]]
    known += [("impairment", each) for each in document.get("impairments", ())]
    known += [("clock step", each) for each in document["clock"]["steps"]]
    known += [("exception", each) for each in document["identity_checks"] if each["result"] == "pass" and "code" in each]
    for what, each in known:
        if each.get("journal_seq") not in rows:
            yield Fault("incidents", f"the {what} of the journal's row {each.get('journal_seq')} is not among the incidents")
    for each in document["incidents"]:
        if each.get("outcome") == "open" and str(each["code"]).startswith("V"):
            yield Fault("incidents", f"the session was sealed although the incident of row {each['journal_seq']} ({each['code']}) was "
                                     "neither signed nor dismissed")
