"""Advice on faces beside a real room and a real face program (with a scripted engine): the verdict stands, whatever it says."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from edge.clock import US, Stamp
from edge.faces import MOST_BYTES, FaceAdvice, Means, enrolled_photo, photo_path
from edge.idcheck.face import FaceProgram, Limits, NotCompared
from edge.idcheck.photo import LibraryDecoder, PhotoDecoder
from edge.sessions import events as e
from edge.sessions.machine import IllegalStep, State
from edge.sessions.roster import Code
from edge.sim.people import BY_NAME

if TYPE_CHECKING:
    from tests.conftest import Device, Hall

T = TypeVar("T")
SESSION = "S20261126-KD01-R01-01"
FAR = Path(__file__).parent / "idcheck" / "far_face.py"
WLT = b"WL" + bytes(1022)


@dataclass
class Door:
    """A room whose door is open, with the follower beside it. `shows`: the picture of the door; None: no fresh one."""

    hall: Hall
    folder: Path
    shows: bytes | None = b"score 300"
    asked: list[int] = field(default_factory=list)
    advice: FaceAdvice | None = None
    running: asyncio.Task[None] | None = None

    def still(self, now: Stamp, since_boot_us: int) -> bytes | None:
        self.asked.append(since_boot_us)
        return self.shows

    def start(self, command: tuple[str, ...] = (), decoder: PhotoDecoder | None = None) -> FaceAdvice:
        program = FaceProgram(command or (sys.executable, str(FAR)), answer_s=20, start_s=60, pause_s=0)
        self.advice = FaceAdvice(self.hall.room, Means(program, self.still, self.folder, Limits(450, 600), Limits(500, 650), decoder))
        self.running = asyncio.create_task(self.advice.run())
        return self.advice

    async def stop(self) -> None:
        if self.running is not None:
            self.running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await self.running

    def enrol(self, name: str, photo: bytes = b"a photo") -> Path:
        path = self.folder / f"{BY_NAME[name].candidate_id}.jpg"
        path.write_bytes(photo)
        return path

    def told(self, name: str) -> e.FaceCompared | None:
        return self.hall.room.state.sessions[SESSION].faces.get(BY_NAME[name].candidate_id)

    async def advice_on(self, name: str) -> e.FaceCompared:
        return await self.until(lambda: self.told(name))

    async def until(self, look: Callable[[], T | None]) -> T:
        waker = self.hall.room.changed()
        async with asyncio.timeout(60):
            while not (found := look()):
                waker.clear()
                await waker.wait()
        self.hall.room.forget(waker)
        return found


@pytest.fixture
async def door(hall: Hall, tmp_path: Path) -> AsyncIterator[Door]:
    await hall.to(State.CHECKIN)
    (tmp_path / "enrolment").mkdir()
    door = Door(hall, tmp_path / "enrolment")
    yield door
    await door.stop()


@pytest.mark.parametrize(("shows", "result"), [(b"score 450", "match"), (b"score 451", "review"), (b"score 601", "no-match")])
async def test_r60_the_verdict_is_given_first_and_stays_whatever_the_advice(door: Door, shows: bytes, result: str) -> None:
    door.enrol("样例甲")
    door.shows = shows
    door.start()
    verdict = await door.hall.show("样例甲")
    assert verdict.code is Code.OK
    admitted = door.hall.room.state.sessions[SESSION].admitted
    fact = await door.advice_on("样例甲")
    assert (fact.result, fact.score_x1000, fact.model) == (result, int(shows[6:]), "scripted-1")
    assert (fact.threshold_x1000, fact.review_x1000, fact.source, fact.reason) == (450, 600, "enrolment", None)
    session = door.hall.room.state.sessions[SESSION]
    assert session.admitted == admitted and BY_NAME["样例甲"].candidate_id in session.admitted, "still in, on the same seat"
    assert door.hall.room.last_verdict == verdict and session.refusals == 0
    assert (await door.hall.show("样例甲")).code is Code.DUPLICATE


async def test_the_door_does_not_wait_for_it(door: Door) -> None:
    """One face hangs; the next people are let in, and get their words when it is their turn."""
    for name in ("样例甲", "样例乙"):
        door.enrol(name)
    program = FaceProgram((sys.executable, str(FAR)), answer_s=1, start_s=60, pause_s=0)
    shown = iter((b"hang", b"score 100"))
    advice = FaceAdvice(door.hall.room, Means(program, lambda now, since: next(shown), door.folder, Limits(450, 600), Limits(500, 650)))
    door.running = asyncio.create_task(advice.run())
    assert (await door.hall.show("样例甲")).code is Code.OK
    assert (await door.hall.show("样例乙")).code is Code.OK
    assert door.told("样例甲") is None and door.told("样例乙") is None, "both are in, nothing is known yet"
    words = {name: ((fact := await door.advice_on(name)).result, fact.reason) for name in ("样例甲", "样例乙")}
    assert sorted(words.values(), key=str) == [("match", None), ("not-compared", "engine-timeout")]


async def test_without_an_enrolment_photo_there_is_nothing_to_compare_with(door: Door) -> None:
    door.start()
    assert (await door.hall.show("样例甲")).code is Code.OK
    fact = await door.advice_on("样例甲")
    assert (fact.result, fact.reason, fact.score_x1000, fact.model, fact.source) == ("not-compared", "no-photo", None, None, None)
    assert door.asked == [], "of whoever gave none no picture is looked at"


async def test_only_a_picture_cut_after_the_card_was_read_counts(door: Door) -> None:
    door.enrol("样例甲")
    door.shows = None
    door.start()
    await door.hall.show("样例甲")
    at = door.hall.room.state.sessions[SESSION].admitted[BY_NAME["样例甲"].candidate_id].at
    while len(door.asked) < 3:
        await door.hall.clock.pass_time(0.2)
        await asyncio.to_thread(bool)       # `still` is asked on a thread
    assert set(door.asked) == {at.boot_us}, "none of somebody who stood there before"
    while door.told("样例甲") is None:
        await door.hall.clock.pass_time(0.2)
        await asyncio.to_thread(bool)
    fact = await door.advice_on("样例甲")
    assert (fact.result, fact.reason) == ("not-compared", "no-picture")
    assert fact.at.us_since(at) <= 4 * US, "three seconds, then whoever stands there is somebody else"


@pytest.mark.parametrize(("shows", "reason"), [
    (b"word no-face-live", "no-face-live"), (b"word no-face-photo", "no-face-photo"), (b"crash", "engine-crashed"),
    (b"garbage", "engine-garbled")])
async def test_what_goes_wrong_is_said_and_the_next_person_is_compared(door: Door, shows: bytes, reason: str) -> None:
    door.enrol("样例甲")
    door.enrol("样例乙")
    door.start()
    door.shows = shows
    await door.hall.show("样例甲")
    fact = await door.advice_on("样例甲")
    assert (fact.result, fact.reason, fact.score_x1000) == ("not-compared", reason, None)
    door.shows = b"score 1"
    await door.hall.show("样例乙")
    assert (await door.advice_on("样例乙")).result == "match"


async def test_an_engine_that_is_not_installed_is_said_at_each_person_and_ends_nothing(door: Door) -> None:
    door.enrol("样例甲")
    door.start((sys.executable, str(FAR), "missing"))
    assert (await door.hall.show("样例甲")).code is Code.OK
    assert (await door.advice_on("样例甲")).reason == "engine-missing"
    assert door.running and not door.running.done()


async def test_after_a_restart_nobody_is_compared_with_whoever_stands_there_now(door: Door) -> None:
    door.enrol("样例甲")
    door.enrol("样例乙")
    await door.hall.show("样例甲")
    await door.hall.clock.pass_time(11)
    door.start()
    await door.hall.show("样例乙")
    await door.advice_on("样例乙")
    assert door.told("样例甲") is None
    assert set(door.hall.room.state.sessions[SESSION].faces) == {BY_NAME["样例乙"].candidate_id}
    again = door.hall.restart().state.sessions[SESSION].faces
    assert {fact.result for fact in again.values()} == {"match"}, "and what was said is still known"


async def test_the_refused_are_not_compared(door: Door) -> None:
    door.enrol("样例甲")
    door.start()
    assert (await door.hall.show("样例辛")).code is Code.NOT_ON_ROSTER
    await door.hall.show("样例甲")
    await door.advice_on("样例甲")
    assert len(door.asked) == 1


# ---- the chip's photo -------------------------------------------------------------------------------------------------------

class Decoded:
    """A decoder that answers at once; the real one has its own tests."""

    async def decode(self, wlt: bytes) -> bytes:
        return b"BM" + wlt


async def test_the_chips_photo_serves_where_none_was_enrolled_with_limits_of_its_own(door: Door) -> None:
    advice = door.start(decoder=Decoded())
    door.shows = b"score 480"
    advice.chip(door.hall.room.subject(BY_NAME["样例甲"].id_no), WLT, door.hall.clock.now())
    await door.hall.show("样例甲")
    fact = await door.advice_on("样例甲")
    assert (fact.result, fact.source, fact.threshold_x1000, fact.review_x1000) == ("match", "chip", 500, 650)
    assert advice._chips == {}, "and is not kept"


async def test_the_chips_photo_of_somebody_refused_is_gone_after_a_minute(door: Door) -> None:
    advice = door.start(decoder=Decoded())
    advice.chip(door.hall.room.subject(BY_NAME["样例辛"].id_no), WLT, door.hall.clock.now())
    assert (await door.hall.show("样例辛")).code is Code.NOT_ON_ROSTER
    await door.hall.clock.pass_time(61)
    await door.hall.fact(e.StreamBack, None, stream="mic")          # anything that happens
    await wait_for(lambda: advice._chips == {})


async def test_the_enrolment_photo_goes_first(door: Door) -> None:
    door.enrol("样例甲")
    advice = door.start(decoder=Decoded())
    advice.chip(door.hall.room.subject(BY_NAME["样例甲"].id_no), WLT, door.hall.clock.now())
    await door.hall.show("样例甲")
    assert (await door.advice_on("样例甲")).source == "enrolment"


async def test_a_library_that_hangs_is_a_word(door: Door) -> None:
    advice = door.start(decoder=LibraryDecoder(("sleep", "3600"), 0.2))
    advice.chip(door.hall.room.subject(BY_NAME["样例甲"].id_no), WLT, door.hall.clock.now())
    await door.hall.show("样例甲")
    assert (await door.advice_on("样例甲")).reason == "decoder-timeout"


async def test_few_chips_are_held_and_none_without_a_decoder(door: Door) -> None:
    advice = door.start()
    advice.chip("s", WLT, door.hall.clock.now())
    assert advice._chips == {}
    await door.stop()
    advice = door.start(decoder=Decoded())
    for n in range(20):
        advice.chip(f"s{n}", WLT, door.hall.clock.now())
    assert list(advice._chips) == ["s16", "s17", "s18", "s19"]
    assert b"WL" not in repr(advice._chips).encode()


# ---- enrolment photos -------------------------------------------------------------------------------------------------------

def test_only_a_plain_small_file_below_the_folder_is_a_photo(tmp_path: Path) -> None:
    folder = tmp_path / "enrolment"
    folder.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    for name in ("../secret", "a/b", ".hidden", "", "x" * 65, "a\0b", "甲"):
        assert photo_path(folder, name) is None and enrolled_photo(folder, name) is None
    assert enrolled_photo(folder, "DEMO-001") is None
    (folder / "DEMO-001.jpg").write_bytes(b"x" * MOST_BYTES)
    assert enrolled_photo(folder, "DEMO-001") == b"x" * MOST_BYTES
    (folder / "big.jpg").write_bytes(b"x" * (MOST_BYTES + 1))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    for name in ("big", "empty", "link", "folder", "pipe"):
        with pytest.raises(NotCompared, match="bad-photo-file"):
            enrolled_photo(folder, name)


async def test_enrolment_photos_go_when_no_session_awaits_their_owner(door: Door) -> None:
    first, second = door.enrol("样例甲"), door.enrol("样例乙")
    later = "S20261126-KD01-R01-02"
    await door.hall.room.plan(door.hall.plan(later), "{}")
    await door.hall.accept_roster(later, [BY_NAME["样例乙"]])
    door.start()
    way = door.hall.way()
    for reached, _ in way:
        if reached is State.CHECKIN:
            break
    for reached, go in way:
        if reached is not State.SEALED:
            assert first.exists()
        await go()
    await wait_for(lambda: not first.exists())
    assert second.exists(), "awaited in the next session"
    await door.hall.fact(e.SessionCancelled, later, by="T001", reason="r")
    await wait_for(lambda: not second.exists())


async def wait_for(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not within 20 s")


async def test_no_picture_is_left_anywhere(door: Door, tmp_path: Path) -> None:
    door.shows = b"score 123456789"[:9]
    door.enrol("样例甲", b"\xff\xd8 the enrolled face \xff\xd9")
    door.start()
    await door.hall.show("样例甲")
    await door.advice_on("样例甲")
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != door.folder
            and (b"the enrolled face" in (data := path.read_bytes()) or door.shows in data)]
    assert kept == []


# ---- the fact ---------------------------------------------------------------------------------------------------------------

async def test_advice_is_about_somebody_who_is_in(door: Door) -> None:
    with pytest.raises(IllegalStep) as step:
        await door.hall.fact(e.FaceCompared, candidate_id=BY_NAME["样例甲"].candidate_id, result="match")
    assert step.value.word == "not-in"


async def test_advice_that_comes_after_the_seal_is_dropped(hall: Hall) -> None:
    await hall.to(State.SEALING)
    with pytest.raises(IllegalStep):
        await hall.fact(e.FaceCompared, candidate_id=hall.roster[0].candidate_id, result="match")


# ---- R60: off means absent --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("enabled", [False, True])
def test_r60_switched_off_no_face_code_is_loaded_and_switched_on_no_engine(tmp_path: Path, device: Device, enabled: bool) -> None:
    """The whole wiring of a room that could start, in a fresh interpreter."""
    shutil.copy(tmp_path / "authority" / "root.pem", tmp_path / "state" / "root.pem")
    text = (Path(__file__).parents[1] / "config" / "demo.toml").read_text(encoding="utf-8").replace("../demo/", "")
    with socket.create_server(("127.0.0.1", 0)) as free:
        text = text.replace("port = 8000", f"port = {free.getsockname()[1]}")
    text += f"\n[checkin]\ndoor_camera = \"cam-front\"\n[face]\nenabled = {str(enabled).lower()}\n"
    (tmp_path / "edge.toml").write_text(text, encoding="utf-8")
    script = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from edge.app import build_room
        from edge.config import load

        async def main():
            program = build_room(load(Path(sys.argv[1])))
            await program.close()
            return [name for name, _ in program.tasks]

        print("faces" in asyncio.run(main()))
        print(*sorted(name for name in sys.modules if name.partition(".")[0] in ("cv2", "dlib", "av", "face_recognition_models")
                      or name.startswith(("edge.face", "edge.idcheck.face", "edge.idcheck.photo", "edge.idcheck.cage"))))
    """)
    done = subprocess.run([sys.executable, "-W", "ignore::ResourceWarning", "-c", script, str(tmp_path / "edge.toml")], capture_output=True,
                          text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs, loaded = done.stdout.splitlines()
    assert runs == str(enabled)
    assert loaded.split() == (["edge.faces", "edge.idcheck.face", "edge.idcheck.photo"] if enabled else [])
