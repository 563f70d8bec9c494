"""Will the disk hold what is to come? Figures in, a forecast out. Pure: the keeper reads the instruments, this file reckons.

Three questions, each with its own horizon: do the sessions of the timetable fit (days), is the disk full within a month at the pace of
exams, and does it hold all the years that the longest policy asks (before the first exam nothing but the plan can say so).
Sizing rule: exam-room requirements U21 (free space 1.3 times what is planned), R14 (a forecast shorter than the years asked is shown).
"""

from __future__ import annotations

from dataclasses import dataclass

RESERVE_X10 = 13
"""Tenths: free space must be 1.3 times what is planned (U21)."""
AROUND_MIN = 90
"""Minutes of recording before and after an exam's own length: check-in, closing, delay."""
SOON_DAYS = 30
YEAR_DAYS = 365
SAFE_BYTES = 2 * 10**9
"""Never counted as room for footage: the database, its journal, and what a full disk needs to be mended."""


@dataclass(frozen=True, slots=True)
class Use:
    """What is known. `kbps`: of all streams together (kilobits per second); `planned_min`: lengths of the sessions to come;
    `hours_per_year`: recorded for sessions; `need_years_x10`: the longest policy's years, in tenths; `store_bytes`: sessions' footage."""

    free_bytes: int
    total_bytes: int
    kbps: int
    planned_min: tuple[int, ...]
    hours_per_year: int
    need_years_x10: int
    store_bytes: int
    idle_bytes: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`days_left`: until the disk is full at a year's pace; `years_x10`: how many years of exams disk and store hold together."""

    free_bytes: int
    planned_bytes: int
    needed_bytes: int
    per_year_bytes: int
    days_left: int
    years_x10: int
    need_years_x10: int
    foreign_bytes: int

    @property
    def timetable_fits(self) -> bool:
        """The sessions to come fit, with the reserve."""
        return self.free_bytes >= self.needed_bytes

    @property
    def lasts(self) -> bool:
        """The disk is not full within a month, or holds as many years as the policies ask: then what expires makes room in time."""
        return self.days_left >= SOON_DAYS or self.holds_the_years

    @property
    def holds_the_years(self) -> bool:
        return self.years_x10 >= self.need_years_x10

    @property
    def trouble(self) -> str | None:
        """The word of a SpaceLow fact: timetable, days; None if all is well."""
        return None if self.lasts and self.timetable_fits else "days" if self.timetable_fits else "timetable"


def with_reserve(planned_bytes: int) -> int:
    """What must be free for so much to be planned."""
    return -(-planned_bytes * RESERVE_X10 // 10)


def session_bytes(kbps: int, duration_min: int) -> int:
    """What a session of this length will write, check-in and closing included."""
    return kbps * 125 * 60 * (duration_min + AROUND_MIN)


def forecast(use: Use) -> Forecast:
    """The forecast. `foreign_bytes` is what lies on the disk and is none of ours (never negative, not exact: file systems round up)."""
    planned = sum(session_bytes(use.kbps, minutes) for minutes in use.planned_min)
    per_year = max(1, use.kbps * 125 * 3600 * use.hours_per_year)
    free = max(0, use.free_bytes - SAFE_BYTES)
    used = max(0, use.total_bytes - use.free_bytes)
    return Forecast(
        free_bytes=use.free_bytes, planned_bytes=planned, needed_bytes=with_reserve(planned), per_year_bytes=per_year,
        days_left=free * YEAR_DAYS // per_year, years_x10=(free + use.store_bytes) * 10 // per_year, need_years_x10=use.need_years_x10,
        foreign_bytes=max(0, used - use.store_bytes - use.idle_bytes))
