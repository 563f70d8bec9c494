"""One whole session with real keys, rows and files, as the tests of the evidence have it."""

from __future__ import annotations

from tests.evidence.conftest import authority, make_authority, make_exam

__all__ = ["authority", "make_authority", "make_exam"]
