"""What the scrub found stands on the auditor's and the administrator's page, in words, and on the session's own file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge.sessions import events as e

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"


@pytest.mark.parametrize(("staff", "path"), [("A001", "/archive"), ("Y001", "/admin")])
async def test_a_damaged_segment_is_named(hall: Hall, staff: str, path: str) -> None:
    await hall.to("checkin")
    async with hall.browser(staff) as client:
        assert "未发现损坏" in (await client.get(path)).text
        await hall.room.report(e.SegmentDamaged(at=hall.room.clock.now(), stream="cam-front", seq=4711, path="p", what="digest",
                                                sha256="0" * 64))
        text = (await client.get(path)).text
        assert "未发现损坏" not in text and "4711" in text and "内容不符" in text and "未删除任何内容" in text
        await hall.room.report(e.SegmentSound(at=hall.room.clock.now(), stream="cam-front", seq=4711))
        assert "未发现损坏" in (await client.get(path)).text


async def test_a_sessions_file_names_its_own_alone(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.room.report(e.SegmentDamaged(at=hall.room.clock.now(), stream="cam-front", seq=4711, path="p", what="missing",
                                            sha256="0" * 64))
    async with hall.browser("A001") as client:
        assert "4711" not in (await client.get(f"/archive/{SESSION}")).text
