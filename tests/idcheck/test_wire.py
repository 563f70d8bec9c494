"""Frames: every vector both ways, streams in any cut, and what must hold for any bytes at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.idcheck import wire
from edge.idcheck.wire import PREAMBLE, Answer, Command, Deframer, Kind, WireError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "id-card-vectors.json").read_text("utf-8"))
FRAMES: list[dict[str, Any]] = VECTORS["vectors"]
# A busy machine is not a defect.
TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MOST_HELD = 7 + wire.LONGEST - 1


def _of(*kinds: str) -> list[Any]:
    return [pytest.param(v, id=v["name"]) for v in FRAMES if v["kind"] in kinds]


@pytest.mark.parametrize("vector", _of("command"))
def test_command_both_ways(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    assert len(raw) == vector["length"]
    command = wire.decode_command(raw)
    assert wire.encode(command) == raw
    assert Deframer(wire.SHORTEST_COMMAND).feed(raw) == [raw]


@pytest.mark.parametrize("vector", _of("answer"))
def test_answer_both_ways(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    assert len(raw) == vector["length"]
    answer = wire.decode_answer(raw)
    assert answer.sw3 == int(vector.get("sw3", f"{answer.sw3:02X}"), 16)
    assert wire.encode(answer) == raw
    assert Deframer().feed(raw) == [raw]


def test_our_commands_are_the_published_ones() -> None:
    published = {v["name"]: wire.decode_command(bytes.fromhex(v["hex"])) for v in FRAMES if v["kind"] == "command"}
    ours = {"reset_sam": wire.RESET, "get_sam_status": wire.STATUS, "get_sam_id": wire.SAM_ID, "find_card": wire.FIND,
            "select_card": wire.SELECT, "read_base_msg": wire.READ, "read_new_address": wire.NEW_ADDRESS,
            "read_iin_sn_dn": wire.MANAGEMENT}
    assert {name: published[name] for name in ours} == ours


@pytest.mark.parametrize("vector", _of("negative_public", "negative_synthetic"))
def test_broken_frame(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    for decode in (wire.decode_command, wire.decode_answer):
        with pytest.raises(WireError, match=r"checksum|length"):
            decode(raw)
    assert Deframer(wire.SHORTEST_COMMAND).feed(raw) == []


@pytest.mark.parametrize("vector", _of("answer_vendor", "foreign_envelope"))
def test_another_devices_frame_is_no_answer(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["hex"])
    with pytest.raises(WireError):
        wire.decode_answer(raw)


def test_sam_id_vector() -> None:
    vector = next(v for v in FRAMES if v["name"] == "sam_id_reply")
    assert wire.sam_id(wire.decode_answer(bytes.fromhex(vector["hex"])).data) == vector["decoded"]
    with pytest.raises(WireError):
        wire.sam_id(bytes(15))


@pytest.mark.parametrize("vector", [v for v in FRAMES if "layout" in v and "fp_length" not in v], ids=lambda v: v["name"])
def test_base_message_both_ways(vector: dict[str, Any]) -> None:
    data = wire.decode_answer(bytes.fromhex(vector["hex"])).data
    text, photo = wire.base_message(data)
    assert (len(text), len(photo)) == (256, 1024)
    assert wire.encode_base_message(text, photo) == data


def test_an_answer_with_fingerprints_is_not_taken() -> None:
    vector = next(v for v in FRAMES if "fp_length" in v)
    with pytest.raises(WireError, match="no base message"):
        wire.base_message(wire.decode_answer(bytes.fromhex(vector["hex"])).data)


def test_management_number_vector() -> None:
    data = wire.decode_answer(bytes.fromhex(next(v for v in FRAMES if v["name"] == "iin_sn_dn_reply_28")["hex"])).data
    assert wire.management_number(data) == f"{data[:4].hex()}-{data[4:12].hex()}-{data[12:].hex()}".upper()
    assert wire.management_number(data[4:]) == f"{data[4:12].hex()}-{data[12:].hex()}".upper(), "24 bytes from modules without IIN"
    for size in (0, 16, 23, 25, 27, 29, 52):
        with pytest.raises(WireError):
            wire.management_number(bytes(size))


def test_appended_address_vector() -> None:
    vector = next(v for v in FRAMES if v["name"] == "new_address_1_of_4_280")
    data = wire.decode_answer(bytes.fromhex(vector["hex"])).data
    assert wire.new_address(data) == data[:70].decode("utf-16-le").rstrip()
    assert wire.new_address(data[:70]) == wire.new_address(data), "some modules send one field"
    for size in (0, 1, 69, 71, 281, 350):
        with pytest.raises(WireError):
            wire.new_address(bytes(size))


@pytest.mark.parametrize("data", [b"", b"\x01\x00\x04", b"\x01\x00\x04\x00" + bytes(1279), b"\x00\xff\x04\x01" + bytes(1280),
                                  b"\x01\x00\x04\x00" + bytes(1281)])
def test_base_message_with_wrong_lengths(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.base_message(data)


@pytest.mark.parametrize("header", VECTORS["headers"], ids=lambda h: h["name"])
def test_header_announces_the_whole_frame(header: dict[str, Any]) -> None:
    head, total = bytes.fromhex(header["hex"]), header["total_frame_length"]
    body = bytearray(head) + bytes(total - len(head) - 1)
    check = 0
    for byte in body[5:]:
        check ^= byte
    frame = bytes(body) + bytes((check,))
    deframer = Deframer()
    assert deframer.feed(frame[:-1]) == []
    assert deframer.pending
    assert deframer.feed(frame[-1:]) == [frame]


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("stream", VECTORS["streams"], ids=lambda s: s["name"])
def test_stream_in_any_chunks(stream: dict[str, Any], size: int) -> None:
    raw = bytes.fromhex(stream["hex"])
    deframer = Deframer()
    frames = [frame for at in range(0, len(raw), size) for frame in deframer.feed(raw[at:at + size])]
    assert [f.hex().upper() for f in frames] == stream["frames"]
    if "frames_after_timeout_resync" in stream:
        assert [f.hex().upper() for f in deframer.missed_deadline()] == stream["frames_after_timeout_resync"]


def test_dropped_bytes_are_counted() -> None:
    deframer = Deframer()
    deframer.feed(b"\x00\xff\xaa\x55" + wire.encode(Answer(0x80)))
    assert deframer.dropped == 4


def test_preamble_inside_data_is_data() -> None:
    frame = wire.encode(Answer(0x90, PREAMBLE + b"\x00\x04\x00\x00\x90\x94"))
    assert Deframer().feed(frame) == [frame]


def test_too_much_data_is_refused() -> None:
    wire.encode(Answer(0x90, bytes(wire.LONGEST - 4)))
    with pytest.raises(WireError):
        wire.encode(Answer(0x90, bytes(wire.LONGEST - 3)))


def test_repr_of_an_answer_shows_no_data() -> None:
    assert repr(Answer(0x90, b"secret")) == "Answer(90, 6 bytes)"


def test_every_status_has_one_class_and_word() -> None:
    assert wire.status(0x80) == (Kind.IDLE, "not-found")
    assert wire.status(0x41)[0] is Kind.REPLACE
    assert wire.status(0xEE) == wire.status(0x24)
    words = [wire.status(sw3)[1] for sw3 in range(256) if wire.status(sw3) != wire.status(0x24)]
    assert len(words) == len(set(words)) == len(wire.STATUS_WORDS) - 1


# ---- any bytes at all -------------------------------------------------------------------------------------------------

ANSWERS = st.builds(Answer, st.integers(0, 255), st.binary(max_size=300))
COMMANDS = st.builds(Command, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300))
# Noise that looks as much like frames as it can: preambles, every length, pieces of frames.
PIECES = st.one_of(st.binary(max_size=40), st.just(PREAMBLE), st.just(b"\xaa"), ANSWERS.map(wire.encode),
                   st.builds(lambda n: PREAMBLE + n.to_bytes(2, "big"), st.integers(0, 0xFFFF)),
                   st.builds(lambda a, n: wire.encode(a)[:n], ANSWERS, st.integers(0, 300)))
NOISE = st.lists(PIECES, max_size=12).map(b"".join)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def _drain(deframer: Deframer, chunks: list[bytes]) -> list[bytes]:
    frames = []
    for chunk in chunks:
        frames += deframer.feed(chunk)
        assert deframer.held <= MOST_HELD
    while deframer.pending:
        frames += deframer.missed_deadline()
    return frames


@TIMELESS
@given(COMMANDS)
def test_any_command_both_ways(command: Command) -> None:
    assert wire.decode_command(wire.encode(command)) == command


@TIMELESS
@given(ANSWERS)
def test_any_answer_both_ways(answer: Answer) -> None:
    assert wire.decode_answer(wire.encode(answer)) == answer


@TIMELESS
@given(NOISE, st.lists(st.integers(0, 5000), max_size=20))
def test_the_cut_does_not_matter_and_nothing_is_lost_count_of(noise: bytes, cuts: list[int]) -> None:
    whole, pieces = Deframer(), Deframer()
    frames = _drain(whole, [noise])
    assert _drain(pieces, _cut(noise, cuts)) == frames
    assert sum(map(len, frames)) + whole.dropped + whole.held == len(noise)
    assert whole.held < len(PREAMBLE)
    for frame in frames:
        wire.decode_command(frame)          # right length and checksum, whatever its status bytes


@TIMELESS
@given(st.lists(st.tuples(st.binary(max_size=30).map(lambda b: b.replace(b"\xaa", b"")), ANSWERS), max_size=6), st.booleans())
def test_frames_are_found_between_noise(parts: list[tuple[bytes, Answer]], tail: bool) -> None:
    stream = b"".join(noise + wire.encode(answer) for noise, answer in parts) + (b"\xaa\xaa" if tail else b"")
    deframer = Deframer()
    found = [frame for at in range(len(stream)) for frame in deframer.feed(stream[at:at + 1])]
    assert [wire.decode_answer(frame) for frame in found] == [answer for _, answer in parts]
    assert deframer.dropped == sum(len(noise) for noise, _ in parts)


@TIMELESS
@given(ANSWERS.map(wire.encode), st.integers(0), st.integers(1, 255))
def test_one_wrong_byte_never_makes_a_frame(frame: bytes, at: int, flip: int) -> None:
    broken = bytearray(frame)
    broken[at % len(frame)] ^= flip
    with pytest.raises(WireError):
        wire.decode_answer(bytes(broken))


@TIMELESS
@given(st.binary(max_size=60))
def test_any_bytes_are_a_frame_or_a_wire_error(data: bytes) -> None:
    decoders: list[Callable[[bytes], object]] = [wire.decode_answer, wire.decode_command, wire.base_message, wire.sam_id,
                                                  wire.new_address, wire.management_number]
    for decode in decoders:
        with suppress(WireError):
            decode(data)


@pytest.mark.parametrize("shortest", [wire.SHORTEST_COMMAND, wire.SHORTEST_ANSWER])
def test_any_length_byte(shortest: int) -> None:
    """All 65,536 lengths that a header can claim: waited for or refused, never more held than one frame, and the next frame is found."""
    whole = wire.encode(Answer(0x80))
    for length in range(0x10000):
        deframer = Deframer(shortest)
        frames = deframer.feed(PREAMBLE + length.to_bytes(2, "big"))
        assert frames == [] and deframer.pending == (shortest <= length <= wire.LONGEST)
        assert deframer.held <= 7
        if deframer.pending:
            frames += deframer.missed_deadline()
        assert frames + deframer.feed(whole) == [whole]


def test_a_long_line_of_false_starts_is_dropped_in_reasonable_time() -> None:
    deframer = Deframer()
    assert deframer.feed(PREAMBLE * 20_000) == []
    assert deframer.held <= MOST_HELD
    assert deframer.dropped + deframer.held == len(PREAMBLE) * 20_000
