"""What staff can record as an incident: a code of a closed list, and who must sign it.

V1, V2, V3 are breaches of the exam rules by their weight (一般, 严重, 特别严重), T technical faults, M what befell people or the room.
A breach counts only when two members of staff have signed it and the candidate has been told (the rules for handling breaches ask for
both on the spot); of T and M the word of one is enough. Codes are data of a manifest: one that is out in the world is never taken back
or given another meaning. Words for people stand in the pages' texts (`incident.<code>`). Called by the machine, the room, the notary
and the pages.
"""

from __future__ import annotations

CODES: tuple[str, ...] = (
    "V1-01", "V1-02", "V1-03", "V1-04", "V1-05", "V1-99",       # brought in, left the seat, talked, answered early or late, misused, other
    "V2-01", "V2-02", "V2-03", "V2-04", "V2-99",                # copied, passed on, forged paper, used a phone, other
    "V3-01", "V3-02", "V3-99",                                  # organised, another person sat the exam, other
    "T-01", "T-02", "T-03", "T-04", "T-05",                     # terminal, network before, network after check-in, power, exam server
    "M-01", "M-02", "M-03")                                     # taken ill, evacuation, noise
INFORMED = frozenset({"signed", "refused", "absent"})
"""What the candidate did when told: signed the record, refused to, or was not there any more."""


def needs_two(code: str) -> bool:
    """Whether two must sign before the session can be sealed: every breach of the rules."""
    return code.startswith("V")


def keeps_longer(code: str) -> bool:
    """Whether the session is kept as an integrity file: a serious breach, or worse."""
    return code.startswith(("V2", "V3"))


def keeps_for_good(code: str) -> bool:
    """Whether the session is held until an auditor releases it: the gravest breaches."""
    return code.startswith("V3")
