"""config/*.toml -> a frozen Config: every key with its unit, its default and its reason. An unknown key refuses to start.

Times are seconds unless the key says otherwise; paths may be relative to the file's own folder. Secrets are named by path, never
written here. `python -m edge config` prints this table (docs/operators/configuration.md is that print; a test compares).
(More than 400 lines: as long as there are keys.)
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge.capture.alarms import Limits
from edge.capture.streams import StreamSpec
from edge.sessions import policy

if TYPE_CHECKING:
    from edge.idcheck.port import Port


class ConfigError(Exception):
    """The configuration cannot be used. Says which key, what is wrong, and what would be right. Nothing was started."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoomSection(_Section):
    code: str = Field(pattern=r"^[0-9]{6}-[A-Z0-9]{4}-R[0-9]{2}$", description="the room's code at the platform: region, site, room")
    name: str = Field(min_length=1, max_length=40, description="the room's name on the pages")
    allow_demo_ids: bool = Field(default=False, description="let cards of the invented region 000000 in; only for demo and training")

    @property
    def site(self) -> str:
        return self.code.split("-")[1]


class PathsSection(_Section):
    state: Path = Field(default=Path("/var/lib/edge"), description="database, keys, staff; small, precious, backed up")
    footage: Path = Field(default=Path("/srv/data/footage"), description="the recordings; on the data disk")
    run: Path = Field(default=Path("/run/edge"), description="sockets and status files; on tmpfs")


class WebSection(_Section):
    host: str = Field(default="127.0.0.1", description="address the pages are served on; loopback or the room's own network")
    port: int = Field(default=8000, ge=1, le=65535, description="TCP port of the pages")
    allowed_hosts: tuple[str, ...] = Field(default=(), description="further host names browsers may use (against DNS rebinding)")
    language: Literal["zh-CN", "en"] = Field(default="zh-CN", description="language of a page whose reader has chosen none")


class ClockSection(_Section):
    require_sync: bool = Field(default=True, description="refuse to open a session on an undisciplined clock; false shows amber instead")


class ReaderSection(_Section):
    port: Path = Field(default=Path("/dev/idcard0"), description="serial port of the ID-card reader, by its udev name")
    usb: str | None = Field(default=None, pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}(@[0-9]+-[0-9]+(\.[0-9]+)*)?$",
                            description="a reader that is no serial port but a USB device (0400:c35a): vendor:product, with @1-1.2 for one "
                                        "USB socket; `port` and `baud` then mean nothing")
    baud: Literal[115200, 57600, 38400, 19200, 9600] = Field(
        default=115200, description="bits per second; readers come set to 115200. One that is silent here is looked for at the others")
    poll_s: float = Field(default=0.4, gt=0.05, le=2, description="pause between two looks for a card (above 0.3 s by the makers)")
    wedge: bool = Field(default=False,
                        description="let a reader that types the number like a keyboard check people in: it proves less than the chip, and "
                                    "manifests say `id_wedge`. Off: what it types only finds the person for a manual check")

    def wire(self) -> Port:
        """The port as configured, not opened."""
        if self.usb is None:
            from edge.idcheck.port import SerialPort
            return SerialPort(self.port, self.baud)
        # only here: the recorder reads this file too, and neither it nor a room with a serial reader needs libusb
        from edge.idcheck.usb import UsbPort
        return UsbPort(self.usb)


class CheckinSection(_Section):
    door_camera: str | None = Field(
        default=None,
        description="id of the stream that sees who stands at the card reader; for manual checks and for `face`. It should show a face at "
                    "least 60 pixels wide in 640")


class FaceSection(_Section):
    """Limits: thousandths of the engine's distance, smaller is more alike (docs/operators/faces.md)."""

    enabled: bool = Field(
        default=False,
        description="compare who stands at the door with the enrolment photo: advice only, needs the extra packages and "
                    "`checkin.door_camera`. Off: nothing of it is loaded")
    engine: Literal["dlib"] = Field(default="dlib", description="what compares; there is one")
    match_x1000: int = Field(
        default=450, ge=1, le=2000,
        description="match up to this distance. Its authors say 600 for photos from the web; where all faces are of one region 400 to 450 "
                    "is usual. Calibrate on your own people: at most 1 in 1,000 strangers may match")
    review_x1000: int = Field(
        default=600, ge=1, le=2000,
        description="above a match and up to this somebody should look; beyond it no match. 600 is the authors' own limit")
    chip_match_x1000: int = Field(
        default=500, ge=1, le=2000,
        description="the same with the photo of the card's chip: 102 x 126 pixels in 1 kB. So small a copy of one and the same picture "
                    "measured 340 to 500 where a good one measured below 150")
    chip_review_x1000: int = Field(
        default=650, ge=1, le=2000,
        description="the same; a person who looks is better than a wrong `no match`")

    @model_validator(mode="after")
    def _ordered(self) -> FaceSection:
        if self.match_x1000 >= self.review_x1000 or self.chip_match_x1000 >= self.chip_review_x1000:
            raise ValueError("a match limit lies at or above its review limit; then nothing would ever be shown to a person")
        return self


class PhotoSection(_Section):
    decoder: Path | None = Field(
        default=None,
        description="library of the reader's maker that decodes the chip's photo (1,024 bytes of WLT); none ships with this program. Runs "
                    "in a process of its own, without network and files")
    decoder_sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$",
                                       description="its SHA-256; another file is not loaded. Required with `decoder`")
    decoder_function: str = Field(
        default="_Unpack", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$",
        description="its function, of the form int f(const char *wlt, int bytes, char *picture, int *picture_bytes)")

    @model_validator(mode="after")
    def _known(self) -> PhotoSection:
        if (self.decoder is None) != (self.decoder_sha256 is None):
            raise ValueError("`decoder` and `decoder_sha256` go together: which file, and what is in it")
        return self


class RecordingSection(_Section):
    segment_s: int = Field(default=60, ge=2, le=600, description="length of a segment file; a crash never costs a finished one")
    idle_keep_h: int = Field(default=24, ge=0, le=24 * 90,
                             description="hours that footage of no session is kept; 0 records only from preflight to sealing")
    buffer_mb: int = Field(default=32, ge=4, le=512,
                           description="per stream: what may wait in memory for a disk that stands still, in 10^6 bytes; 32 holds a minute "
                                       "at 4 Mbit/s. What does not fit is a declared gap")
    seal_wait_s: int = Field(default=10, ge=1, le=120, description="longest wait for the last segments before a gap is declared")


class UpkeepSection(_Section):
    scrub_days: int = Field(default=30, ge=0, le=365,
                            description="days within which every segment on the disk is read and hashed again; 0: never, then a flipped "
                                        "byte is found only when somebody asks for the session")
    scrub_most_mb_s: int = Field(default=40, ge=1, le=1000,
                                 description="the scrub never reads faster (10^6 bytes a second); it rests while a session is held")


class StreamSection(_Section):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="short name in folders and manifests; never given to another camera")
    kind: Literal["rtsp", "usb", "microphone", "pattern"] = Field(
        description="rtsp (IP camera), usb (camera at this PC), microphone or pattern (test picture)")
    name_zh: str = Field(description="the stream's name on Chinese pages")
    name_en: str = Field(description="the stream's name on English pages")
    url: str | None = Field(default=None, description="rtsp only: address without user or password")
    credentials: Path | None = Field(default=None, description="rtsp only: file with user:password, mode 0600")
    transport: Literal["tcp", "udp"] = Field(default="tcp",
                                             description="rtsp only: tcp loses nothing on the way; udp for cameras that know no other")
    device: str | None = Field(default=None, description="usb: the camera's path by id (/dev/v4l/by-id/…); microphone: (part of) the sound "
                                                         "system's name for it")
    sound: str | None = Field(default=None, description="usb only: (part of) the name of the microphone recorded with the picture")
    driver: Literal["sounddevice", "pyaudio"] = Field(default="sounddevice",
                                                      description="what reads the microphone; the other if one fails here")
    width: int = Field(default=640, ge=160, le=1920, description="usb and pattern: pixels")
    height: int = Field(default=360, ge=120, le=1080, description="usb and pattern: pixels")
    fps: int = Field(default=15, ge=1, le=30, description="usb and pattern: frames per second")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str | None) -> str | None:
        if url is not None and "@" in url:      # anywhere: a password may itself hold a slash
            raise ValueError("holds a user or password (or an @, written %40 in a path); put user:password into a file and name it in "
                             "`credentials`")
        return url

    @model_validator(mode="after")
    def _whole(self) -> StreamSection:
        if (self.kind == "rtsp") != (self.url is not None):
            raise ValueError("`url` belongs to a stream of kind rtsp, and only there")
        if self.kind == "usb" and self.device is None:
            raise ValueError("a stream of kind usb needs `device`: the camera's path below /dev/v4l/by-id")
        if self.sound is not None and self.kind != "usb":
            raise ValueError("`sound` belongs to a stream of kind usb, and only there")
        return self


LIMITS = Limits()


class WatchSection(_Section):
    """Thresholds of the watcher. Measured on painted rooms, recorded by the recorder: docs/design/watching.md has the figures."""

    picture_raise_s: float = Field(
        default=LIMITS.picture_raise_s, ge=0, le=600,
        description="seconds a picture must be wrong before the alarm; longer than somebody walking past the lens, short enough that a "
                    "frozen picture shows within ten")
    picture_clear_s: float = Field(
        default=LIMITS.picture_clear_s, ge=0, le=600,
        description="seconds it must be right before the alarm ends")
    black_mean: int = Field(
        default=LIMITS.black_mean, ge=0, le=255,
        description="black: brightness (0 to 255, 16 is black) at or below; a room by dim light is above 40")
    flat_spread: int = Field(
        default=LIMITS.flat_spread, ge=0, le=128,
        description="black and covered: standard deviation of brightness at or below; a furnished room has 35 to 40, a covered lens 12")
    blur_sharp: int = Field(
        default=LIMITS.blur_sharp, ge=0, le=10000,
        description="covered, and out of focus where there is no reference picture: sharpness at or below; a room has 40 to 80, a covered "
                    "lens 1 to 3")
    blur_percent: int = Field(
        default=LIMITS.blur_percent, ge=0, le=100,
        description="out of focus: per cent of the reference picture's sharpness (for its contrast) at or below; slightly soft is 65, "
                    "defocused 7 to 17")
    bright_percent: int = Field(
        default=LIMITS.bright_percent, ge=1, le=100,
        description="over-exposed: per cent of the picture that is white; a room in strong light has 15, a blinded camera 80")
    moved_px: int = Field(
        default=LIMITS.moved_px, ge=1, le=160,
        description="moved: shift against the reference picture, in pixels of 320; 6 is a turn of 1 to 2 degrees, and a camera that stands "
                    "still shows less than 2")
    moved_kept_percent: int = Field(
        default=LIMITS.moved_kept_percent, ge=0, le=100,
        description="moved: less than this part of the reference's edges is still there; another view has 23 to 31, the same in any light "
                    "over 60")
    still_stir: int = Field(
        default=LIMITS.still_stir, ge=0, le=255,
        description="not frozen: a pixel changed by more than this; noise reaches 22, a person who moves more than 80. Frozen is only the "
                    "very same picture")
    sound_raise_s: float = Field(
        default=LIMITS.sound_raise_s, ge=0, le=600,
        description="seconds a sound must be wrong before the alarm; people pause, rooms do not")
    sound_clear_s: float = Field(default=LIMITS.sound_clear_s, ge=0, le=600, description="seconds it must be right before the alarm ends")
    sound_low_dbfs: int = Field(
        default=LIMITS.sound_low_dbfs, ge=-90, le=0,
        description="too low: peak of a second at or below; an empty room's noise is about -50, digital zero is an alarm of its own")
    clipped_percent: float = Field(
        default=LIMITS.clipped_percent, gt=0, le=100,
        description="clipping: per cent of a second's samples near full scale; loud speech has 0, a bang 0.2, speech overdriven by 12 dB "
                    "has 4")

    def limits(self) -> Limits:
        """As the watcher takes them."""
        return Limits(**self.model_dump())


class RetentionSection(_Section):
    policies: Path | None = Field(
        default=None,
        description="a file (TOML) with further or longer retention policies (docs/operators/retention.md); one that would shorten any is "
                    "refused")
    exam_hours_per_year: int = Field(
        default=2640, ge=1, le=8784,
        description="hours recorded for sessions in a year, for the forecast of the disk: 4 sessions of 3 hours on 220 days")


class PlatformSection(_Section):
    url: str = Field(description="base address of the province's platform; plain http only to loopback")
    client_cert: Path | None = Field(default=None, description="certificate chain for mutual TLS (PEM)")
    client_key: Path | None = Field(default=None, description="key for mutual TLS (PEM, mode 0600); never the signing key")
    ca: Path | None = Field(default=None, description="certificate authorities for https, if not the system's")
    heartbeat_s: int = Field(default=30, ge=5, le=600, description="time between two heartbeats")
    plans_s: int = Field(default=600, ge=5, le=3600, description="time between two looks for plans and rosters")
    retry_cap_s: int = Field(default=900, ge=1, le=3600, description="longest wait between two tries to deliver; tries have no limit")

    spread_s: int = Field(default=30, ge=0, le=600, description="a manifest's first delivery waits a random time up to this, because the "
                                                                "rooms of a province all seal at the same minute")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        if "@" in url:
            raise ValueError("holds a user or password; the platform knows this room by its certificate (client_cert, client_key)")
        return url


class EvidenceSection(_Section):
    key: Path = Field(default=Path("device.key"),
                      description="device key, or the file that says where it is (on a token, in a TPM, as a credential: "
                                  "docs/operators/keys.md); below paths.state unless absolute. Made by `edge key init`")
    certificate: Path = Field(default=Path("device.pem"), description="its certificate chain")
    root: Path = Field(default=Path("root.pem"), description="the authority that rosters and receipts are checked against")
    subject_key: Path = Field(default=Path("site-hmac.key"), description="site key (32 bytes) for HMACs of numbers; else the room's own")
    sm2_key: Path | None = Field(default=None,
                                 description="key (PEM) of a second signature in SM2 with SM3, made by `edge key init --sm2`; needs the "
                                             "openssl program. None: there is no second signature")
    sm2_certificate: Path | None = Field(default=None, description="its certificate chain")
    sm2_distid: str | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[!-~]+$",
                                   description="its distinguishing id, as the authority has assigned it; GM/T 0009's own is "
                                               "1234567812345678. Never assumed, because under another id nothing verifies")

    counter: str | None = Field(default=None, pattern=r"^0x01[0-9a-fA-F]{6}$",
                                description="NV index of a counter in the machine's TPM that goes up with each session opened, against a "
                                            "disk that is set back to an older copy (docs/operators/keys.md); needs tpm2-tools. None: "
                                            "there is none")

    @model_validator(mode="after")
    def _second_whole(self) -> EvidenceSection:
        if len({each is None for each in (self.sm2_key, self.sm2_certificate, self.sm2_distid)}) != 1:
            raise ValueError("`sm2_key`, `sm2_certificate` and `sm2_distid` go together")
        return self


class ArchiveSection(_Section):
    """Off unless `endpoint` is given (docs/operators/archive.md)."""

    endpoint: str | None = Field(default=None, description="address of an S3-compatible store with Object Lock; none: no archive. Plain "
                                                           "http only to loopback")
    bucket_3y: str = Field(default="evid-3y", min_length=3, max_length=63, description="bucket for what is kept up to four years")
    bucket_6y: str = Field(default="evid-6y", min_length=3, max_length=63, description="bucket for what is kept longer")
    credentials: Path | None = Field(default=None, description="file with two lines, access key and secret key, mode 0600; required with "
                                                               "`endpoint`")
    ca: Path | None = Field(default=None, description="certificate authorities for https, if not the system's")
    region: str = Field(default="us-east-1", description="region the requests are signed for; most stores do not care")
    exam_kbps: int = Field(default=0, ge=0, le=10_000_000,
                           description="cap in kbit/s while a session is live; 0 rests: the exam comes first")
    day_kbps: int = Field(default=2000, ge=0, le=10_000_000, description="cap in kbit/s otherwise; 0 rests")
    night_kbps: int = Field(default=50_000, ge=0, le=10_000_000, description="cap in kbit/s in the hours of `night`; 0 rests")
    night: str = Field(default="20-6", pattern=r"^([01]?[0-9]|2[0-3])-([01]?[0-9]|2[0-3])$", description="hours of the night, local time")
    reread_days: int = Field(default=365, ge=1, le=366, description="days within which every archived file is read back and compared again")
    late_h: int = Field(default=72, ge=1, le=24 * 30, description="hours after which a session that is not in the archive raises an alarm")
    local_keep_days: int = Field(default=90, ge=1, le=2200,
                                 description="days that footage stays on this disk at least, whether the archive has it or not")

    @field_validator("endpoint")
    @classmethod
    def _safe(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        url = urlsplit(endpoint)
        if "@" in endpoint:
            raise ValueError("holds a user or password; the keys stand in the file that `credentials` names")
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in ("localhost", "127.0.0.1", "::1")):
            raise ValueError("must begin with https:// (plain http only to loopback)")
        return endpoint

    @model_validator(mode="after")
    def _whole(self) -> ArchiveSection:
        if self.endpoint is not None and self.credentials is None:
            raise ValueError("`endpoint` needs `credentials`: the file with the keys")
        return self

    @property
    def night_hours(self) -> tuple[int, int]:
        since, until = self.night.split("-")
        return int(since), int(until)


class ExportSection(_Section):
    live_mb_s: int = Field(default=20, ge=0, le=10_000,
                           description="while a session is live an export reads at most so many 10^6 bytes per second (0: no limit); an "
                                       "exam comes before an auditor. A recorder that waits for the disk stops every export in any case")


class Config(_Section):
    """A whole configuration file."""

    room: RoomSection
    paths: PathsSection = PathsSection()
    web: WebSection = WebSection()
    clock: ClockSection = ClockSection()
    reader: ReaderSection = ReaderSection()
    checkin: CheckinSection = CheckinSection()
    face: FaceSection = FaceSection()
    photo: PhotoSection = PhotoSection()
    recording: RecordingSection = RecordingSection()
    watch: WatchSection = WatchSection()
    retention: RetentionSection = RetentionSection()
    platform: PlatformSection
    evidence: EvidenceSection = EvidenceSection()
    upkeep: UpkeepSection = UpkeepSection()
    archive: ArchiveSection = ArchiveSection()
    export: ExportSection = ExportSection()
    streams: tuple[StreamSection, ...] = Field(min_length=1, max_length=16, description="the cameras and microphones, in page order")
    sha256: str = Field(default="", exclude=True, description="digest of the file's bytes; set by the loader, stands in manifests")

    @model_validator(mode="after")
    def _distinct(self) -> Config:
        ids = [s.id for s in self.streams]
        if len(set(ids)) != len(ids):
            raise ValueError("two streams share one id")
        return self

    @model_validator(mode="after")
    def _door(self) -> Config:
        door = self.checkin.door_camera
        if door is not None and door not in {s.id for s in self.streams if s.kind != "microphone"}:
            raise ValueError(f"`checkin.door_camera` is {door!r}, which is no camera among the streams")
        if self.face.enabled and door is None:
            raise ValueError("`face.enabled` needs `checkin.door_camera`: which camera sees the door?")
        return self

    def specs(self) -> tuple[StreamSpec, ...]:
        """The streams as the recorder takes them; their rotations are spread over the minute."""
        step = max(1, self.recording.segment_s // (2 * len(self.streams)))
        return tuple(StreamSpec(
            id=s.id, kind=s.kind, name_zh=s.name_zh, name_en=s.name_en, url=s.url, credentials=s.credentials, device=s.device,
            transport=s.transport, sound=s.sound, driver=s.driver, segment_s=self.recording.segment_s, offset_s=n * step,
            buffer_mb=self.recording.buffer_mb, width=s.width, height=s.height, fps=s.fps)
            for n, s in enumerate(self.streams))

    def policies(self) -> policy.Table:
        """The retention policies in force here. ConfigError in plain words if the site's file cannot be used."""
        try:
            return policy.BUILT_IN if self.retention.policies is None else policy.read_policies(self.retention.policies)
        except policy.PolicyError as error:
            raise ConfigError(f"{error} Nothing was started and nothing was deleted.") from error

    def in_state(self, path: Path) -> Path:
        """A path of the evidence section."""
        return self.paths.state / path


def load(path: Path) -> Config:
    """Read a configuration file. ConfigError in plain words if anything in it is wrong; nothing has been touched then."""
    try:
        data = path.read_bytes()
        values = tomllib.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if "sha256" in values:
        raise ConfigError(f"{path}: sha256: this key is unknown")
    try:
        config = Config.model_validate({**values, "sha256": hashlib.sha256(data).hexdigest()})
    except ValidationError as error:
        raise ConfigError(f"{path} cannot be used; nothing was started.\n" + "\n".join(_complaints(error))) from error
    config = _resolve(config, path.resolve().parent)
    config.policies()
    return config


def _complaints(error: ValidationError) -> Iterator[str]:
    for each in error.errors():
        where = ".".join(str(part) for part in each["loc"]) or "(file)"
        if each["type"] == "extra_forbidden":
            yield f"  {where}: this key is unknown. `edge config` lists the keys there are."
        else:
            yield f"  {where}: {each['msg']}"


def _resolve(config: Config, folder: Path) -> Config:
    """Relative paths are relative to the file's folder (those of `evidence` to paths.state)."""
    paths = config.paths.model_copy(update={name: folder / getattr(config.paths, name) for name in ("state", "footage", "run")})
    reader = config.reader.model_copy(update={"port": folder / config.reader.port})
    photo = config.photo.model_copy(update={"decoder": folder / config.photo.decoder}) if config.photo.decoder else config.photo
    retention = config.retention
    if retention.policies is not None:
        retention = retention.model_copy(update={"policies": folder / retention.policies})
    platform = config.platform.model_copy(update={
        name: folder / value for name in ("client_cert", "client_key", "ca") if (value := getattr(config.platform, name))})
    archive = config.archive.model_copy(update={
        name: folder / value for name in ("credentials", "ca") if (value := getattr(config.archive, name))})
    streams = tuple(s.model_copy(update={"credentials": folder / s.credentials}) if s.credentials else s for s in config.streams)
    return config.model_copy(update={"paths": paths, "reader": reader, "photo": photo, "platform": platform, "archive": archive,
                                     "streams": streams, "retention": retention})


def table() -> str:
    """Every key as a Markdown table: section, key, default, meaning."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in Config.model_fields.items():
        if name == "sha256":
            continue
        section = StreamSection if name == "streams" else field.annotation
        prefix = "streams[]" if name == "streams" else name
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            raise TypeError(f"section {name} is no model")
        for key, each in section.model_fields.items():
            default = "required" if each.is_required() else f"`{each.default}`" if each.default not in (None, ()) else "none"
            lines.append(f"| `{prefix}.{key}` | {default} | {each.description} |")
    return "\n".join(lines) + "\n"
