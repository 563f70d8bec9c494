"""What the door last said, as the check-in page and the entrance display show it: masked, with the one moment that its wording names.

Pure. The Room makes one of each verdict and keeps the last; words, sounds and lights are the pages' (`web.views`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.clock import US, Stamp
from edge.sessions import door
from edge.sessions.identity import mask_name, mask_number
from edge.sessions.machine import Session
from edge.sessions.roster import Code, Verdict


@dataclass(frozen=True, slots=True)
class DoorVerdict:
    """The last thing the door said. Names are masked already."""

    at: Stamp
    code: Code
    session: str | None
    name: str = ""
    number: str = ""
    seat: str | None = None
    elsewhere: str | None = None
    reason: str = ""
    first_at_utc_us: int | None = None      # when an already admitted person came in
    elsewhere_us: int | None = None         # when the session `elsewhere` begins; of one whose doors are still shut: when they should open
    room: str = ""                          # the other room of this site, as people call it: R02
    subject: str = field(default="", repr=False)    # stands for the card: one tone for each

    @property
    def time_us(self) -> int | None:
        """The one moment that the wording of a verdict names."""
        return self.first_at_utc_us if self.first_at_utc_us is not None else self.elsewhere_us


def shown(at: Stamp, found: Verdict, session: Session | None, other: Session | None, *,
          name: str, number: str, subject: str) -> DoorVerdict:
    """`session`: whose doors are open; `other`: the room's own session that the person is listed in instead. `name` and `number`: whole."""
    candidate = found.candidate
    before = session.admitted.get(candidate.candidate_id) if candidate and session else None
    begins = found.other_start_us
    if other is not None:
        early = other.plan.checkin_open_min * 60 * US if found.code is Code.TOO_EARLY else 0
        begins = other.plan.scheduled_start_us - early
    return DoorVerdict(at, found.code, session.id if session else None, mask_name(name), mask_number(number),
                       seat=door.seat_of(session, candidate) if candidate and session else None, elsewhere=found.other_session,
                       first_at_utc_us=before.at.utc_us if before else None, elsewhere_us=begins,
                       room=(found.other_room or "").rpartition("-")[2], subject=subject)
