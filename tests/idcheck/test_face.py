"""Comparing faces: the room's end of the pipe against a real process with a scripted engine; the one real engine on drawn faces (slow).

No picture of a real person is here. What drawn faces can show is said at the test that uses them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.idcheck import face
from edge.idcheck.face import Compared, FaceProgram, Limits, NotCompared, Result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FAR = Path(__file__).with_name("far_face.py")
PHOTO = b"a photo"


def far(*how: str) -> tuple[str, ...]:
    return (sys.executable, str(FAR), *how)


@pytest.fixture
async def program() -> AsyncIterator[FaceProgram]:
    program = FaceProgram(far(), answer_s=20, start_s=60, pause_s=0)
    yield program
    await program.rest()


async def word_of(program: FaceProgram, live: bytes, photo: bytes = PHOTO) -> str:
    with pytest.raises(NotCompared) as none:
        await program.compare(live, photo)
    assert none.value.word in face.NOT_COMPARED_WORDS
    return none.value.word


# ---- the three words ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("score", "result"), [
    (0, Result.MATCH), (450, Result.MATCH), (451, Result.REVIEW), (600, Result.REVIEW), (601, Result.NO_MATCH), (2000, Result.NO_MATCH)])
def test_a_score_is_one_of_three_words(score: int, result: Result) -> None:
    assert Limits(450, 600).judge(score) is result


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(1, 1999), st.integers(1, 1999))
def test_more_alike_is_never_a_worse_word(one: int, other: int, match: int, more: int) -> None:
    order = [Result.MATCH, Result.REVIEW, Result.NO_MATCH]
    limits = Limits(match, match + more)
    assert order.index(limits.judge(min(one, other))) <= order.index(limits.judge(max(one, other)))


# ---- the room's end of the pipe ---------------------------------------------------------------------------------------------

async def test_asked_and_answered(program: FaceProgram) -> None:
    assert await program.compare(b"score 412", PHOTO) == Compared(412, "scripted-1")
    assert await program.compare(b"score 0", b"x" * 2_000_000) == Compared(0, "scripted-1")
    for word in sorted(face.PICTURE_WORDS):
        assert await word_of(program, b"word " + word.encode()) == word


async def test_one_program_serves_all_one_at_a_time(program: FaceProgram) -> None:
    scores = await asyncio.gather(*(program.compare(b"score %d" % n, PHOTO) for n in range(20)))
    assert [each.score_x1000 for each in scores] == list(range(20))
    one, other = await program.compare(b"pid", PHOTO), await program.compare(b"pid", PHOTO)
    assert one == other


@pytest.mark.parametrize(("live", "word"), [
    (b"crash", "engine-crashed"), (b"garbage", "engine-garbled"), (b"foreign", "engine-garbled"), (b"word nonsense", "engine-garbled"),
    (b"score 10001", "engine-garbled"), (b"score -1", "engine-garbled"), (b"score x", "engine-crashed")])
async def test_what_goes_wrong_is_a_word_and_the_next_one_is_served_by_a_new_program(program: FaceProgram, live: bytes, word: str) -> None:
    before = await program.compare(b"pid", PHOTO)
    assert await word_of(program, live) == word
    assert await program.compare(b"pid", PHOTO) != before
    assert await program.compare(b"score 7", PHOTO) == Compared(7, "scripted-1")


async def test_one_that_hangs_is_ended_in_its_time() -> None:
    program = FaceProgram(far(), answer_s=0.5, start_s=60, pause_s=0)
    began = time.monotonic()
    assert await word_of(program, b"hang") == "engine-timeout"
    assert time.monotonic() - began < 20
    assert await program.compare(b"score 1", PHOTO) == Compared(1, "scripted-1")
    await program.rest()
    assert (face.ANSWER_S, face.START_S) == (5, 20)


@pytest.mark.parametrize(("how", "word"), [("missing", "engine-missing"), ("slow", "engine-timeout"), ("rubbish", "engine-garbled")])
async def test_one_that_does_not_start_is_not_waited_for_again_so_soon(how: str, word: str) -> None:
    program = FaceProgram(far(how), answer_s=20, start_s=1 if how == "slow" else 60, pause_s=3600)
    assert await word_of(program, b"score 1") == word
    began = time.monotonic()
    assert [await word_of(program, b"score 1") for _ in range(5)] == [word] * 5
    assert time.monotonic() - began < 0.5


async def test_no_program_at_all_is_a_word() -> None:
    assert await word_of(FaceProgram(("/nowhere/at/all",)), b"score 1") == "engine-crashed"
    assert await word_of(FaceProgram((sys.executable, "-c", "pass")), b"score 1") == "engine-crashed"


async def test_a_question_that_nobody_waits_for_any_more_spoils_no_other(program: FaceProgram) -> None:
    await program.compare(b"score 1", PHOTO)
    asking = asyncio.create_task(program.compare(b"hang", PHOTO))
    await asyncio.sleep(0)          # it runs as far as to the answer that does not come
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await program.compare(b"score 3", PHOTO) == Compared(3, "scripted-1")


async def test_at_rest_no_program_runs(program: FaceProgram) -> None:
    pid = (await program.compare(b"pid", PHOTO)).score_x1000
    await program.rest()
    await program.rest()
    mine = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and int(each.name) % 10_000 == pid]
    assert not [each for each in mine if str(FAR) in cmdline(each)]
    assert await program.compare(b"score 2", PHOTO) == Compared(2, "scripted-1")


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


async def test_it_leaves_when_the_room_is_gone() -> None:
    process = await asyncio.create_subprocess_exec(*far(), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert process.stdin and process.stdout
    assert json.loads(await process.stdout.readline()) == {"model": "scripted-1"}
    process.stdin.write(b'{"ask": 1, "live": 100, "photo": 100}\nonly a part of it')
    process.stdin.close()
    async with asyncio.timeout(60):
        assert await process.wait() == 0


# ---- the real program -----------------------------------------------------------------------------------------------------

HAVE_ENGINE = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))


@pytest.mark.skipif(HAVE_ENGINE, reason="the extra packages are installed here")
async def test_without_the_extra_packages_the_program_says_so() -> None:
    assert await word_of(FaceProgram(face.worker("dlib"), start_s=60), b"score 1") == "engine-missing"


async def test_an_engine_that_nobody_knows_is_missing() -> None:
    assert await word_of(FaceProgram(face.worker("no-such-engine"), start_s=60), b"score 1") == "engine-missing"


@pytest.mark.slow
@pytest.mark.skipif(not HAVE_ENGINE, reason="the extra packages for faces are not installed (docs/operators/faces.md): the "
                                            "engine itself was not tried here")
async def test_the_real_engine_on_drawn_faces() -> None:
    """Shown: it finds a face, turns and describes it, and the same drawn face stays well below a match when noisy, dark, half as
    large, mirrored, or as small as a chip's photo; a picture without a face, no picture, and one of too many pixels are words. Not shown:
    how well it tells people apart. Its network was trained on people, and drawn faces are all much alike to it."""
    import cv2
    import numpy as np

    from tests.idcheck.drawn_faces import draw, jpeg

    program = FaceProgram(face.worker("dlib"), answer_s=60, start_s=120)
    one, other = draw(0), draw(1)
    rng = np.random.default_rng(1)
    variants = {
        "noisy": np.clip(one + rng.normal(0, 12, one.shape), 0, 255).astype(np.uint8), "dark": (one * 0.6).astype(np.uint8),
        "half": cv2.resize(one, None, fx=0.5, fy=0.5), "mirrored": np.ascontiguousarray(one[:, ::-1]),
    }
    try:
        same = await program.compare(jpeg(one), jpeg(one))
        assert same.score_x1000 == 0
        assert same.model.startswith("dlib-20.") and len(same.model) <= 64
        for name, picture in variants.items():
            score = (await program.compare(jpeg(picture), jpeg(one))).score_x1000
            assert 0 < score < 250, name
        chip = cv2.resize(one[80:400, 190:450], (102, 126), interpolation=cv2.INTER_AREA)
        bmp = cv2.imencode(".bmp", chip)[1].tobytes()
        assert len(bmp) == 38862
        assert (await program.compare(jpeg(one), bmp)).score_x1000 < 250
        assert (await program.compare(jpeg(other), jpeg(one))).score_x1000 > 250

        blank = jpeg(np.full((360, 640, 3), 128, np.uint8))
        assert await word_of(program, blank, jpeg(one)) == "no-face-live"
        assert await word_of(program, jpeg(one), blank) == "no-face-photo"
        assert await word_of(program, b"", jpeg(one)) == "unreadable-live"
        assert await word_of(program, jpeg(one), jpeg(one)[:200]) in ("unreadable-photo", "no-face-photo")
        huge = b"P5 60000 60000 255\n" + bytes(1000)
        assert await word_of(program, huge, jpeg(one)) == "unreadable-live"
        assert (await program.compare(jpeg(one), jpeg(one))).score_x1000 == 0, "none of that ended it"
        assert os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS") is None
    finally:
        await program.rest()
