"""Staff of this room: who may log in (password) and sign (PIN). A file, `staff.json`, replaced durably; argon2id hashes only.

`edge staff add` writes it, the running room reads it anew when it changes. Roles in a *session* come from the session's plan; the
account role here says what a person may do outside one: staff, auditor, sysadmin, or drill (a rehearsal's, no password).
After 5 wrong tries each further one is delayed, growing to 30 s, never a lock-out: an exam must go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from edge import durable
from edge.clock import US, Clock

ROLES = ("staff", "auditor", "sysadmin", "drill")
MIN_PASSWORD, MIN_PIN = 8, 4
FREE_TRIES, MOST_DELAY_S = 5, 30

_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)     # OWASP's argon2id minimum: fits a small PC


@dataclass(frozen=True, slots=True)
class Member:
    staff_id: str
    name: str
    role: str
    password_hash: str | None
    pin_hash: str | None


class TooSoon(Exception):
    """Too many wrong tries: wait `seconds` and try again. Nothing is locked."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many wrong tries; try again in {seconds} s")
        self.seconds = seconds


class StaffBook:
    """The members by staff_id. Verifying a secret takes about 30 ms by intent."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._read_at: tuple[int, int] | None = None
        self._members: dict[str, Member] = {}
        self._failures: dict[str, tuple[int, int]] = {}     # staff_id -> (count, boot_us of the last)

    @property
    def members(self) -> Mapping[str, Member]:
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            return {}
        if self._read_at != (facts.st_mtime_ns, facts.st_ino):
            rows = json.loads(self._path.read_text(encoding="utf-8"))["members"]
            self._members = {row["staff_id"]: Member(**row) for row in rows}
            self._read_at = (facts.st_mtime_ns, facts.st_ino)
        return self._members

    def add(self, staff_id: str, name: str, role: str, password: str | None, pin: str | None) -> None:
        """Add or replace a member. ValueError in plain words for a short secret or an unknown role; nothing is changed then."""
        if role not in ROLES:
            raise ValueError(f"role {role!r} is unknown; one of {', '.join(ROLES)}")
        if password is not None and len(password) < MIN_PASSWORD:
            raise ValueError(f"a password needs at least {MIN_PASSWORD} characters")
        if pin is not None and (len(pin) < MIN_PIN or not pin.isdigit()):
            raise ValueError(f"a PIN needs at least {MIN_PIN} digits")
        member = Member(staff_id, name, role, _HASHER.hash(password) if password else None, _HASHER.hash(pin) if pin else None)
        members = {**self.members, staff_id: member}
        rows = [asdict(each) for each in members.values()]
        durable.replace(self._path, json.dumps({"members": rows}, ensure_ascii=False, indent=1).encode())

    def remove(self, staff_id: str) -> bool:
        """Take a member out; False if there was none. What the member signed stays in the journal."""
        members = dict(self.members)
        if members.pop(staff_id, None) is None:
            return False
        durable.replace(self._path, json.dumps({"members": [asdict(m) for m in members.values()]}, ensure_ascii=False, indent=1).encode())
        return True

    def name(self, staff_id: str) -> str:
        member = self.members.get(staff_id)
        return member.name if member else staff_id

    def check_password(self, staff_id: str, password: str) -> bool:
        member = self.members.get(staff_id)
        return self._check(staff_id, member.password_hash if member else None, password)

    def check_pin(self, staff_id: str, pin: str) -> bool:
        member = self.members.get(staff_id)
        return self._check(staff_id, member.pin_hash if member else None, pin)

    def _check(self, staff_id: str, stored: str | None, given: str) -> bool:
        count, last = self._failures.get(staff_id, (0, 0))
        if count >= FREE_TRIES:
            wait = min(2 ** (count - FREE_TRIES), MOST_DELAY_S)
            left = wait - (self._clock.now().boot_us - last) // US
            if left > 0:
                raise TooSoon(left)
        try:
            good = _HASHER.verify(stored or _NOBODY, given) and stored is not None
        except (VerifyMismatchError, InvalidHashError, UnicodeEncodeError):      # the last: half a character, from JSON
            good = False
        if good:
            self._failures.pop(staff_id, None)
        else:
            self._failures[staff_id] = (count + 1, self._clock.now().boot_us)
        return good


_NOBODY = _HASHER.hash("nobody's secret")       # an unknown name takes as long as a wrong password
