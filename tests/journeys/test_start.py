"""The room's program writes down the folded state when it is stopped, and the next start believes it; after kill -9 the one before."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

from tests.journeys.house import House, until


def rows(house: House) -> tuple[int, int]:
    """The journal's last row, and the row up to which the snapshot speaks (0: there is none)."""
    with closing(sqlite3.connect(f"file:{house.config.paths.state / 'edge.db'}?mode=ro", uri=True)) as connection:
        last, = connection.execute("SELECT max(seq) FROM event").fetchone()
        kept = connection.execute("SELECT body FROM snapshot WHERE id = 0").fetchone()
    return last, json.loads(kept[0].partition(" ")[2])["seq"] if kept else 0


def passed_over(house: House) -> int:
    return (house.folder / "room.log").read_text(encoding="utf-8").count("snapshot passed over")


def test_a_room_that_is_stopped_remembers(house: House) -> None:
    house.start("platform", "room")
    until(house.up, 60)
    session = house.first_session()
    assert passed_over(house) == 0, "the first start of all has none, and nobody needs to hear of it"
    house.stop()
    last, kept = rows(house)
    assert last > 2 and kept == last
    house.start("platform", "room")
    until(house.up, 60)
    assert house.session(session)["state"] == "planned"
    house.do(session, "begin_preflight", by="T001")
    assert house.session(session)["state"] == "preflight"
    house.kill("room")
    assert rows(house)[1] == kept
    house.start("room")
    until(house.up, 60)
    assert house.session(session)["state"] == "preflight" and passed_over(house) == 0
