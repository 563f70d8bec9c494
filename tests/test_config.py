"""The configuration's gate: what is wrong is named in plain words, and nothing is started."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from edge.config import ConfigError, load, table

CONFIG = Path(__file__).parents[1] / "config"
GOOD = """
[room]
code = "000000-KD01-R01"
name = "第 1 考场"

[platform]
url = "http://127.0.0.1:8900/edge/v1"

[[streams]]
id = "cam-front"
kind = "pattern"
name_zh = "前摄像"
name_en = "Front camera"
"""
CAMERA = GOOD.replace('kind = "pattern"', 'kind = "rtsp"\nurl = "rtsp://192.168.1.11/stream1"')


def complaint(tmp_path: Path, text: str) -> str:
    path = tmp_path / "edge.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load(path)
    return str(refused.value)


@pytest.mark.parametrize(("change", "words"), [
    (GOOD + "\n[recording]\nsegments_s = 60\n", "recording.segments_s: this key is unknown"),
    (GOOD + "\n[retention]\ndays = 1\n", "retention.days: this key is unknown"),
    (GOOD + "\n[keeping]\ndays = 1\n", "keeping: this key is unknown"),
    (GOOD + "\n[retention]\nexam_hours_per_year = 0\n", "retention.exam_hours_per_year"),
    (GOOD + '\n[retention]\npolicies = "none.toml"\n', "none.toml cannot be read"),
    (GOOD + 'adress = "x"\n', "streams.0.adress: this key is unknown"),
    ('sha256 = "00"\n' + GOOD, "sha256: this key is unknown"),
    (GOOD.replace("000000-KD01-R01", "room one"), "room.code"),
    (GOOD.replace('kind = "pattern"', 'kind = "rtsp"'), "`url` belongs to a stream of kind rtsp"),
    (GOOD + 'url = "rtsp://192.168.1.11/1"\n', "`url` belongs to a stream of kind rtsp"),
    (CAMERA.replace("rtsp://", "rtsp://admin:secret@"), "streams.0.url: Value error, holds a user or password"),
    (CAMERA.replace("rtsp://", "rtsp://admin:sec/secret@"), "holds a user or password"),
    (GOOD.replace("http://", "http://room:secret@"), "platform.url: Value error, holds a user or password"),
    (GOOD + GOOD[GOOD.index("[[streams]]"):], "two streams share one id"),
    (GOOD[:GOOD.index("[[streams]]")], "streams"),
    (GOOD + "\n[recording]\nidle_keep_h = -1\n", "recording.idle_keep_h"),
    (GOOD + "\n[clock]\nrequire_sync = \"perhaps\"\n", "clock.require_sync"),
    ("[room\n", "cannot be read"),
    (GOOD + "\n[web]\nport = 0\n", "web.port"),
    (GOOD + "\n[web]\nlanguage = \"fr\"\n", "web.language"),
    (GOOD.replace("[[streams]]", "[streams]"), "streams"),
    (GOOD.replace('id = "cam-front"', 'id = "../cam"'), "streams.0.id"),
    (GOOD.replace('url = "http://127.0.0.1:8900/edge/v1"', ""), "platform.url"),
])
def test_what_is_wrong_is_named(tmp_path: Path, change: str, words: str) -> None:
    said = complaint(tmp_path, change)
    assert words in said
    assert "secret" not in said.replace("a secret", "")


@pytest.mark.parametrize("content", [b"\xff\xfe[room]", b"\0" * 100, b"[room]\ncode = 1\ncode = 2\n"])
def test_what_is_no_text_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "edge.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "edge.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no configuration file"):
        load(tmp_path / "none.toml")


def test_paths_are_relative_to_the_file_and_defaults_are_the_sites(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(CAMERA + 'credentials = "cam.login"\n\n[paths]\nrun = "run"\n', encoding="utf-8")
    config = load(path)
    assert config.paths.run == tmp_path / "run"
    assert config.paths.state == Path("/var/lib/edge")
    assert config.specs()[0].credentials == tmp_path / "cam.login"
    assert config.reader.port == Path("/dev/idcard0")
    assert (config.platform.client_cert, config.platform.client_key, config.platform.ca) == (None, None, None)
    assert config.clock.require_sync and not config.room.allow_demo_ids
    assert config.in_state(config.evidence.key) == Path("/var/lib/edge/device.key")
    with pytest.raises(ValidationError):
        config.web.port = 1
    path.write_text(path.read_text(encoding="utf-8") + "# another byte\n", encoding="utf-8")
    assert load(path).sha256 != config.sha256


def test_every_relative_path_stands_beside_the_file_wherever_it_is_read_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = GOOD.replace("[[streams]]", """client_cert = "tls.pem"
client_key = "keys/tls.key"
ca = "/etc/ca.pem"

[paths]
state = "state"
footage = "../footage"
run = "run"

[reader]
port = "run/card-reader"

[[streams]]""")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/edge.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = load(Path("site/edge.toml"))
    here = tmp_path / "site"
    assert (config.paths.state, config.paths.footage, config.paths.run) == (here / "state", here / "../footage", here / "run")
    assert config.reader.port == here / "run/card-reader"
    assert (config.platform.client_cert, config.platform.client_key, config.platform.ca) == (
        here / "tls.pem", here / "keys/tls.key", Path("/etc/ca.pem"))
    assert config.in_state(config.evidence.root) == here / "state/root.pem"


def test_r60_faces_are_off_and_no_photo_is_decoded_unless_somebody_says_so(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text(GOOD, encoding="utf-8")
    config = load(path)
    assert not config.face.enabled and config.checkin.door_camera is None and config.photo.decoder is None
    path.write_text(GOOD + f'\n[checkin]\ndoor_camera = "cam-front"\n[face]\nenabled = true\n[photo]\ndecoder = "lib/wlt.so"\n'
                           f'decoder_sha256 = "{"aB" * 32}"\n', encoding="utf-8")
    config = load(path)
    assert config.face.enabled and config.photo.decoder == tmp_path / "lib/wlt.so"
    for match, more in ((config.face.match_x1000, config.face.review_x1000), (config.face.chip_match_x1000, config.face.chip_review_x1000)):
        assert 0 < match < more <= 650


@pytest.mark.parametrize(("more", "words"), [
    ("[face]\nenabled = true\n", "needs `checkin.door_camera`"),
    ('[checkin]\ndoor_camera = "cam-door"\n', "no camera among the streams"),
    ('[checkin]\ndoor_camera = "mic"\n[[streams]]\nid = "mic"\nkind = "microphone"\nname_zh = "拾音"\nname_en = "Mic"\n',
     "no camera among the streams"),
    ("[face]\nmatch_x1000 = 600\n", "a match limit lies at or above its review limit"),
    ('[face]\nengine = "best"\n', "face.engine"),
    ('[photo]\ndecoder = "/lib/wlt.so"\n', "`decoder` and `decoder_sha256` go together"),
    ('[photo]\ndecoder = "/lib/wlt.so"\ndecoder_sha256 = "abc"\n', "photo.decoder_sha256"),
    (f'[photo]\ndecoder = "/lib/wlt.so"\ndecoder_sha256 = "{"0" * 64}"\ndecoder_function = "f; g"\n', "photo.decoder_function"),
])
def test_what_is_wrong_about_faces_is_named(tmp_path: Path, more: str, words: str) -> None:
    assert words in complaint(tmp_path, GOOD + "\n" + more)


def test_the_streams_rotate_one_after_the_other() -> None:
    offsets = [s.offset_s for s in load(CONFIG / "edge.toml").specs()]
    assert len(set(offsets)) == len(offsets) == 3
    assert max(offsets) < 60


@pytest.mark.parametrize("name", ["demo.toml", "edge.toml"])
def test_what_we_ship_loads(name: str) -> None:
    assert load(CONFIG / name).room.site == "KD01"


def test_every_key_has_a_meaning() -> None:
    rows = table().splitlines()[2:]
    assert len(rows) > 30
    assert all(row.count("|") == 4 and len(row.split("|")[3].strip()) > 10 for row in rows)
