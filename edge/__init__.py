"""The exam-room edge controller. Start reading at `edge/room.py` and `edge/app.py`; the map is `docs/design/`."""

__version__ = "0.1.0"
