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
    config = demo.prepare(tmp_path / "demo", 0, 0)
    made = House(tmp_path / "demo", config)
    try:
        yield made
    finally:
        made.stop()
