"""What the doctor advises, how it prints it, and the command as an installer runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge import doctor
from edge.capture.onvif import Camera, Profile
from edge.capture.streams import StreamSpec
from edge.capture.trial import Arrival
from edge.status import ClockReading

RIG = Path(__file__).parent / "rigs" / "onvif_device.py"
GOOD = Profile("Main", "h264", 1920, 1080, 25, 25, 4096, True, "AAC", "rtsp://192.168.1.64/main")
CAME = Arrival("cam-1", "measured", "", 1, "h264", 1920, 1080, 2500, 4096, 1000, 1000, "aac", False, 500)
SPEC = StreamSpec("cam-1", "rtsp", url="rtsp://192.168.1.64:554/main/")


@pytest.mark.parametrize(("change", "words"), [
    ({}, []),
    ({"codec": "h265"}, ["set H.264"]),
    ({"codec": "jpeg"}, ["jpeg is not recorded"]),
    ({"codec": ""}, ["what it sends is not recorded"]),
    ({"gop": 50}, []),                          # two seconds: allowed
    ({"gop": 100}, ["set 25 frames"]),
    ({"gop": 100, "fps": None}, []),            # not known in seconds
    ({"constant": False}, ["constant (CBR)"]),
    ({"sound": "G726"}, ["it is G726"]),
    ({"sound": "PCMU"}, []),
    ({"sound": ""}, []),
])
def test_what_a_camera_says_is_judged(change: dict[str, object], words: list[str]) -> None:
    advice = [a.text for a in doctor.advise_profile(replace(GOOD, **change)) if a.to_set]      # type: ignore[arg-type]
    assert len(advice) == len(words) and all(word in text for word, text in zip(words, advice, strict=True))


@pytest.mark.parametrize(("change", "words"), [
    ({}, []),
    ({"codec": "h265"}, ["set H.264"]),
    ({"gop_min_ms": 2000, "gop_max_ms": 2040}, []),
    ({"gop_min_ms": 4000, "gop_max_ms": 4000}, ["4.0 s apart: set one a second"]),
    ({"gop_min_ms": 1000, "gop_max_ms": 8000}, ['smart codec']),
    ({"gop_min_ms": None, "gop_max_ms": 12000}, ["12.0 s apart"]),
    ({"gop_min_ms": None, "gop_max_ms": None}, ["no key frame came"]),
    ({"sound": "pcm_alaw"}, []),
    ({"sound": "adpcm_g726"}, ["set AAC or G.711"]),
    ({"b_frames": True, "first_picture_ms": 9000}, []),
    ({"how": "nothing", "fault": "password-refused"}, ["refuses the user or password"]),
    ({"how": "nothing", "fault": "busy"}, []),
    ({"how": "nothing", "fault": "a-new-word"}, ["a-new-word"]),
])
def test_what_arrives_is_judged(change: dict[str, object], words: list[str]) -> None:
    advice = [a.text for a in doctor.advise_arrival(replace(CAME, **change)) if a.to_set]      # type: ignore[arg-type]
    assert len(advice) == len(words) and all(word in text for word, text in zip(words, advice, strict=True))


@pytest.mark.parametrize(("clock_s", "to_set"), [(0.4, 0), (-2.9, 0), (3.5, 1), (-86400.0, 1), (None, 0)])
def test_a_camera_clock_may_be_off_by_a_few_seconds(clock_s: float | None, to_set: int) -> None:
    advice = list(doctor.advise_camera(Camera("192.168.1.64", True, "", clock_s=clock_s), []))
    assert sum(a.to_set for a in advice) == to_set


def test_the_recorded_profile_is_judged_and_without_one_the_largest() -> None:
    sub = replace(GOOD, name="Sub", codec="jpeg", width=640, url="rtsp://192.168.1.64/sub")
    camera = Camera("192.168.1.64", True, "", profiles=(sub, GOOD))
    assert doctor.judged(camera, []) == [GOOD]
    assert doctor.judged(camera, [SPEC]) == [GOOD]
    assert doctor.judged(camera, [replace(SPEC, url="rtsp://192.168.1.64/sub")]) == [sub]


@pytest.mark.parametrize(("fault", "to_set"), [
    ("it does not answer ONVIF (no connection)", 0), ("it wants a user and password", 0),
    ("it wants a user and password: it refuses those it was given", 1)])
def test_a_camera_that_says_nothing_is_no_failure_but_a_wrong_password_is(fault: str, to_set: int) -> None:
    advice = list(doctor.advise_camera(Camera("192.168.1.64", False, fault), [SPEC]))
    assert [a.to_set for a in advice] == [bool(to_set)]
    assert ("--credentials" in advice[0].text) == fault.endswith("password")


def test_the_report_reads_as_words_and_as_json() -> None:
    report = doctor.Report(
        ClockReading("synced", 2000, "chrony"), ((Camera("192.168.1.64", True, "", "Example M1", "1.2", 12.0, (GOOD,)),
                                                  (doctor.Advice(True, "clock: set it"),)),),
        ((SPEC, CAME, (doctor.Advice(False, "fine"),)), (SPEC, replace(CAME, how="recorded", utc_us=1_795_498_303_000_000), ())))
    text = "\n".join(doctor.as_text(report))
    assert "synced (says chrony), within 0.002 s" in text
    assert "12.0 s ahead of this PC" in text and "(recorded as cam-1)" in text and "1 to set" in text
    assert "first picture after 0.5 s" in text and "not opened again: segment of 2026-11-24" in text
    facts = json.loads(json.dumps(doctor.as_dict(report)))
    assert (facts["ok"], facts["cameras"][0]["set"], facts["streams"][0]["notes"]) == (False, ["clock: set it"], ["fine"])


@pytest.fixture
def device() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for each in started:
        each.terminate()
        each.communicate(timeout=10)


def start(device: list[subprocess.Popen[str]], *options: str) -> str:
    process = subprocess.Popen([sys.executable, RIG, *options], stdout=subprocess.PIPE, text=True)
    device.append(process)
    assert process.stdout is not None
    return f"127.0.0.1:{process.stdout.readline().split()[1]}"


def run_doctor(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "EDGE_CONFIG"}
    return subprocess.run([sys.executable, "-m", "edge", "doctor", "cameras", *options], capture_output=True, text=True, timeout=60,
                          check=False, stdin=subprocess.DEVNULL, env=environment)


def test_the_command_says_good_and_bad_by_its_exit_code_and_never_a_password(device: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    account = tmp_path / "account"
    account.write_text("room:a-secret-word")
    good = start(device, "--auth", "room:a-secret-word", "--constant", "--sound", "AAC", "--rtsp", "rtsp://room:a-secret-word@127.0.0.1/cam1")
    done = run_doctor("--address", good, "--credentials", str(account))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All good." in done.stdout and "rtsp://127.0.0.1/cam1" in done.stdout and "asking 1" in done.stderr
    bad = start(device, "--gop", "250", "--no-constant", "--clock", "3600")
    both = run_doctor("--address", good, "--address", bad, "--credentials", str(account), "--json")
    assert both.returncode == 1
    facts = json.loads(both.stdout)
    assert [len(camera["set"]) for camera in facts["cameras"]] == [0, 3]
    assert "a-secret-word" not in done.stdout + done.stderr + both.stdout + both.stderr


def test_no_camera_at_all_is_not_good_and_a_wrong_file_is_refused(tmp_path: Path) -> None:
    done = run_doctor("--address", "127.0.0.1:9")
    assert done.returncode == 1 and "No camera answered" in done.stdout
    refused = run_doctor("--address", "127.0.0.1:9", "--credentials", str(tmp_path / "none"))
    assert refused.returncode == 1 and "No camera was asked." in refused.stderr
