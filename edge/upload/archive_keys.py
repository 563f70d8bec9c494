"""Where a session's files lie in the archive: content-addressed keys that follow from the session's id alone.

    v1/<site>/<room>/<session>/<stream>/<n:06d>-<sha256:16>.mp4     and its sidecar, the same stem with .json
    v1/<site>/<room>/<session>/manifest-1-<sha256:16>.dsse.json     and every other document of the bundle likewise
    v1/<site>/<room>/<session>/access/…   disposed/…                who fetched it; what was lawfully deleted

So whoever knows the session's id finds it with one LIST, and a second upload of a file is the same key with the same bytes. Names are those
of an exported folder (`evidence.bundle`). Standard library only. Callers: `archivist`, `retrieval`.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from edge.clock import LOCAL, US

_SESSION = re.compile(r"S[0-9]{8}-([A-Z0-9]{4})-(R[0-9]{2})-[0-9]{2}")
_MEDIA = re.compile(r"segments/([a-z0-9][a-z0-9-]{0,31}/[0-9]{6}-[0-9a-f]{16}\.(?:mp4|json))")
_MEDIA_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,31}/[0-9]{6}-[0-9a-f]{16}\.(?:mp4|json)")
_DOCUMENT = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,60}?)(\.[a-z.]{2,12})")
_DOCUMENT_KEY = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,60}?)-([0-9a-f]{16})(\.[a-z.]{2,12})")


def prefix(session: str) -> str:
    """The session's folder in any bucket. ValueError if it is no session's id."""
    found = _SESSION.fullmatch(session)
    if found is None:
        raise ValueError(f"{session!r} is no session's id")
    return f"v1/{found[1]}/{found[2]}/{session}/"


def tail(name: str, sha256: str) -> str:
    """The key of a file of the bundle, below the session's prefix. ValueError for a name that no bundle has."""
    if media := _MEDIA.fullmatch(name):
        return media[1]
    document = _DOCUMENT.fullmatch(name)
    if document is None:
        raise ValueError(f"{name!r} is no file of an exported session")
    return f"{document[1]}-{sha256[:16]}{document[2]}"


def name_of(tail: str) -> tuple[str, str] | None:
    """(name in the bundle, first 16 digits of its SHA-256; empty for a sidecar, whose key has its film's); None: not a bundle's file."""
    if _MEDIA_KEY.fullmatch(tail):
        return f"segments/{tail}", tail[-20:-4] if tail.endswith(".mp4") else ""
    document = _DOCUMENT_KEY.fullmatch(tail)
    return (document[1] + document[3], document[2]) if document else None


def lock_until_us(keep_until: str) -> int:
    """The end of the local day `YYYY-MM-DD`, UTC microseconds: the first moment at which a lawful deletion may happen."""
    day = date.fromisoformat(keep_until) + timedelta(days=1)
    return int(datetime(day.year, day.month, day.day, tzinfo=LOCAL).timestamp()) * US
