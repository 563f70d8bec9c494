"""A face at the door, through every real part: camera, recording, watcher, room, reader, the real engine. Slow, and only with the extra.

The faces are drawn, so what is shown is the way a picture goes and that nothing of it stays; not how well people are told apart.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from edge import demo
from edge.evidence import chain
from edge.sessions import events as e
from edge.sim.people import BY_NAME
from edge.storage.database import Database
from edge.storage.journal import Journal
from tests.capture.conftest import Camera
from tests.idcheck.drawn_faces import draw, jpeg
from tests.journeys.house import House, until

HAVE_ENGINE = all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HAVE_ENGINE, reason="the extra packages for faces are not installed "
                                                                           "(docs/operators/faces.md): nothing of this was tried here")]

ROOM = """
[checkin]
door_camera = "cam-front"

[face]
enabled = true
match_x1000 = 200

[[streams]]
"""


@pytest.fixture
def door(tmp_path: Path) -> Iterator[House]:
    """A room whose camera shows one drawn face, in noise and with a tone."""
    (tmp_path / "face.jpg").write_bytes(jpeg(draw(0)))
    film, home = tmp_path / "face.mkv", tmp_path / "camera"
    home.mkdir()
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-loop", "1", "-framerate", "25", "-i", tmp_path / "face.jpg", "-f", "lavfi", "-i",
                    "sine=frequency=440:sample_rate=48000", "-t", "40", "-vf", "noise=alls=8:allf=t", "-c:v", "libx264", "-preset",
                    "veryfast", "-pix_fmt", "yuv420p", "-g", "25", "-bf", "0", "-c:a", "aac", film], check=True, timeout=120)
    camera = Camera(home, film)
    text = (Path(__file__).parent / "exam-day.toml").read_text(encoding="utf-8").replace("rtsp://camera.invalid/cam1", camera.url)
    text = text[:text.rindex("[[streams]]")]                # the microphone is left out: the camera has sound of its own
    (tmp_path / "door.toml").write_text(text.replace("[[streams]]\n", ROOM.lstrip(), 1), encoding="utf-8")
    house = House(tmp_path / "demo", demo.prepare(tmp_path / "demo", 0, 0, tmp_path / "door.toml"))
    try:
        yield house
    finally:
        house.stop()
        camera.stop()


def facts(house: House, session: str) -> list[e.FaceCompared]:
    database = Database(house.config.paths.state / "edge.db", ballast=False)
    try:
        return [row.event for row in Journal(database, chain.link).of_session(session) if isinstance(row.event, e.FaceCompared)]
    finally:
        database.close()


def told(house: House, session: str, count: int) -> bool:
    return len(facts(house, session)) == count


def test_r60_a_face_at_the_door_from_the_camera_to_the_fact(door: House) -> None:
    photos = door.config.paths.state / "enrolment"
    photos.mkdir(mode=0o700)
    (photos / f"{BY_NAME['样例甲'].candidate_id}.jpg").write_bytes(jpeg(draw(0)))         # the very face
    (photos / f"{BY_NAME['样例乙'].candidate_id}.jpg").write_bytes(jpeg(draw(1)))         # another drawn one
    door.start()
    until(door.up, 60)
    session = door.first_session()
    door.ready(session)
    door.do(session, "open_checkin", by="T001")
    for count, name in enumerate(("样例甲", "样例乙", "样例丙"), 1):
        door.tap(name)
        until(partial(told, door, session, count), 60, f"advice on {name}")
    same, other, none = facts(door, session)
    assert (same.result, same.source) == ("match", "enrolment") and same.score_x1000 is not None and same.score_x1000 < 200
    assert same.model is not None and same.model.startswith("dlib-20.")
    assert other.result == "review" and other.score_x1000 is not None and other.score_x1000 > 200
    assert (none.result, none.reason) == ("not-compared", "no-photo")
    assert door.session(session)["admitted"] == 3, "all three are in"

    room = door.processes["room"].pid
    loaded = Path(f"/proc/{room}/maps").read_text()
    assert "dlib" not in loaded and "cv2" not in loaded, "not in the room's own process"
    pictures = [path for path in door.folder.rglob("*.jpg") if path.parent != photos]
    assert {path.parent.name for path in pictures} <= {"streams"}, "the wall's newest picture, and no other"
