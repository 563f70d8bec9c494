"""The house of the journeys as a fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import demo
from tests.capture.conftest import camera, film, sound_card, tone
from tests.journeys.house import House

__all__ = ["camera", "film", "house", "sound_card", "tone"]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A demo house that is prepared and not yet started; its programs end with the test."""
    template = tmp_path / "template.toml"
    text = demo.TEMPLATE.read_text(encoding="utf-8")
    for key, demos, ours in (("heartbeat_s", 10, 5), ("plans_s", 15, 5), ("retry_cap_s", 10, 3)):
        assert f"{key} = {demos}\n" in text
        text = text.replace(f"{key} = {demos}\n", f"{key} = {ours}\n")        # a demo may wait, a test need not
    template.write_text(text, encoding="utf-8")
    config = demo.prepare(tmp_path / "demo", 0, 0, template)
    made = House(tmp_path / "demo", config)
    try:
        yield made
    finally:
        made.stop()
