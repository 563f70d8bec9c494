"""The gate for what the platform sends: shapes of docs/platform-api.yaml, checked before anything uses them.

Strict: a number in quotes is no number. Fields that a newer platform adds are ignored, missing ones refuse. Called by `platform` only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge.clock import parse_utc


def _moment(text: str) -> str:
    parse_utc(text)
    return text


Moment = Annotated[str, AfterValidator(_moment)]


class _Gate(BaseModel):
    """A shape of the contract. Fields that a newer platform adds are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class ProblemShape(_Gate):
    code: str = ""
    title: str = ""
    detail: str = ""


class _Rules(_Gate):
    checkin_open_min: int = Field(default=30, ge=0, le=24 * 60)
    late_cutoff_min: int = Field(default=30, ge=0, le=24 * 60)
    earliest_leave_min: int = Field(default=30, ge=0, le=24 * 60)
    min_proctors: int = Field(default=2, ge=1, le=50)
    live_monitoring: bool = True
    photo_check: bool = False


class _Staff(_Gate):
    staff_id: str = Field(min_length=1, max_length=64)
    name: str = Field(max_length=60)
    role: Literal["chief", "proctor", "assessor", "sysadmin", "attendant"]


class PlanShape(_Gate):
    plan_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")
    session_id: str = Field(pattern=r"^S[0-9]{8}-[A-Z0-9]{4}-R[0-9]{2}-[0-9]{2}$")
    session_type: Literal["exam_theory", "exam_practical", "exam_teacher", "training_class", "drill"]
    room_code: str
    title: str = Field(default="", max_length=200)
    person_category: str
    trade: list[str] = []
    exam_kind: str
    subject: str
    scheduled_start: Moment
    duration_min: int = Field(ge=1, le=24 * 60)
    rules: _Rules
    staff: list[_Staff] = Field(max_length=50)
    roster_count: int = Field(ge=0, le=200)
    retention_policy: str
    state: Literal["published", "changed", "cancelled"] = "published"


class HeartbeatReplyShape(_Gate):
    server_time: Moment | None = None
    commands_waiting: bool = False
    interval_s: int | None = None
