"""A device's whole history under attack: the eleven cases with device data only and with the platform's receipts, and some of our own.

Each case names exactly the kinds of findings that must come, no more and no fewer: an attack that is found by accident proves nothing.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.clock import US
from edge.evidence import chain, envelope, history, words
from edge.evidence.history import Told
from edge.evidence.report import Report, Second
from edge.evidence.revocation import RevocationError, Revocations, read_lists
from edge.evidence.sm2 import DISTID
from tests.evidence.career import APART_S, DEVICE, START, Career, session_id, wipe
from tests.evidence.conftest import TestAuthority
from tests.evidence.test_sm2 import Sm2Authority

Attack = Callable[[Career, Path], object]
GOOD: set[str] = set()


@pytest.fixture
def make_career(tmp_path: Path, authority: Any) -> Callable[..., Career]:
    def make(*arguments: Any, **options: Any) -> Career:
        return Career(tmp_path / f"footage-{len(list(tmp_path.iterdir()))}", options.pop("authority", authority), *arguments, **options)
    return make


def check(career: Career, folder: Path, **more: Any) -> Report:
    report = history.verify(folder, career.authority.root_pem, **more)
    assert {each.word for each in report.findings} <= set(words.FINDINGS)
    return report


def kinds(report: Report) -> set[str]:
    return {each.word for each in report.findings}


# ---- the attacks ------------------------------------------------------------------------------------------------------

def flip_a_byte(career: Career, folder: Path) -> None:
    path = min((folder / session_id(3) / "segments" / "cam").glob("*.mp4"))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)


def delete_a_segment(career: Career, folder: Path) -> None:
    min((folder / session_id(3) / "segments" / "cam").glob("*.mp4")).unlink()


def cut_an_entry(career: Career, folder: Path) -> None:
    path = folder / session_id(3) / "manifest-1.dsse.json"
    outer = json.loads(path.read_bytes())
    document = json.loads(base64.b64decode(outer["payload"]))
    del document["segments"][1]
    path.write_text(json.dumps(outer | {"payload": base64.b64encode(chain.canonical(document)).decode()}))


def replay_the_second(career: Career, folder: Path) -> None:
    (folder / session_id(6)).mkdir()
    shutil.copy(folder / session_id(2) / "manifest-1.dsse.json", folder / session_id(6))


CASES: dict[str, tuple[int, Attack, set[str], set[str], str]] = {
    # name: (sessions, what is done, kinds with device data only, kinds with receipts, a text that must be there with receipts)
    "0 honest": (5, lambda c, f: None, GOOD, GOOD, ""),
    "1 one byte changed": (5, flip_a_byte, {"altered-file"}, {"altered-file"}, f"{session_id(3)}: altered segments/cam/000001-"),
    "2 segment deleted": (5, delete_a_segment, {"missing-file"}, {"missing-file"}, f"{session_id(3)}: missing segments/cam/000001-"),
    "3 entry cut out": (5, cut_an_entry, {"signature", "seq-gap", "chain-broken", "opened-no-manifest"},
                        {"signature", "seq-gap", "chain-broken", "opened-no-manifest", "missing-vs-receipt"},
                        f"manifest missing vs receipt: the platform had revision 1 of {session_id(3)}"),
    "4 middle session deleted": (5, lambda c, f: wipe(f, 3), {"seq-gap", "chain-broken"},
                                 {"seq-gap", "chain-broken", "opened-no-manifest", "missing-vs-receipt"},
                                 f"opened, no manifest: {session_id(3)}"),
    "5 last session deleted": (5, lambda c, f: wipe(f, 5), GOOD, {"opened-no-manifest", "missing-vs-receipt"},
                               f"manifest missing vs receipt: the platform had revision 1 of {session_id(5)}"),
    "6 old manifest replayed": (5, replay_the_second, {"replay", "seq-gap", "chain-broken"}, {"replay", "seq-gap", "chain-broken"},
                                f"replay: {session_id(6)}/manifest-1.dsse.json is a document of {session_id(2)}"),
    "9 opened, wiped": (2, lambda c, f: wipe(f, 2), GOOD, {"opened-no-manifest"}, f"opened, no manifest: {session_id(2)}"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_named_attacks(make_career: Any, tmp_path: Path, case: str) -> None:
    """The platform's receipts come from the platform, whatever the attacker did to those in the folder."""
    count, attack, device_only, with_receipts, text = CASES[case]
    offline = make_career(count, online=False)
    folder = offline.write(tmp_path / "offline")
    attack(offline, folder)
    report = check(offline, folder)
    assert kinds(report) == device_only, report.lines
    assert not report.had_receipts and any("device data only" in line for line in report.lines)
    online = make_career(count)
    if case.startswith("9"):
        online.sessions[1].receipts.clear()     # its manifest was never sent
    folder = online.write(tmp_path / "online")
    attack(online, folder)
    report = check(online, folder, more=[online.receipts(tmp_path / "platform")])
    assert kinds(report) == with_receipts, report.lines
    assert any(text in line for line in report.lines)
    if not with_receipts:
        assert (report.verdict, report.sessions, report.gaps, report.had_receipts) == ("PASS WITH DECLARED GAPS", count, 1, True)


def test_case_7_a_history_made_anew_with_the_stolen_key(make_career: Any, tmp_path: Path) -> None:
    true = make_career(5)
    forged = make_career(5, salt="forged", device=true.device, online=False)
    folder = forged.write(tmp_path / "forged")
    assert check(forged, folder).verdict == "PASS WITH DECLARED GAPS", "the device's key alone proves no history"
    report = check(forged, folder, more=[true.receipts(tmp_path / "platform")])
    assert kinds(report) == {"differs-from-receipt"}
    assert [text.partition(":")[0] for text in report.findings].count("manifest differs from receipt") == 5


def test_case_8_a_recorder_that_stood_still_for_half_a_second(make_career: Any, tmp_path: Path) -> None:
    for online in (False, True):
        career = make_career(2, online=online, undeclared=1)
        report = check(career, career.write(tmp_path / f"history-{online}"))
        assert kinds(report) == {"undeclared-gap"}
        assert "UNDECLARED GAP cam 2026-11-26T07:01:00.000Z – 2026-11-26T07:01:00.500Z" in report.first


def test_case_10_a_session_that_nobody_heard_of_shows_only_in_the_schedule(make_career: Any, tmp_path: Path) -> None:
    career = make_career(1)
    folder = career.write(tmp_path / "history")
    assert check(career, folder).verdict == "PASS"
    report = check(career, folder, told=Told(expected=frozenset({session_id(1), session_id(2)})))
    assert kinds(report) == {"schedule"} and session_id(2) in report.first


# ---- of our own -------------------------------------------------------------------------------------------------------

def test_documents_alone_are_a_history_too_in_any_arrangement(make_career: Any, tmp_path: Path) -> None:
    career = make_career(3)
    career.checkpoint()
    folder = career.write(tmp_path / "history")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(folder.rglob("*.dsse.json"))):
        shutil.copy(path, flat / f"{number}.dsse.json")
    report = check(career, flat)
    assert (report.verdict, report.sessions, report.segments, report.had_receipts) == ("PASS WITH DECLARED GAPS", 3, 9, True)
    assert any("that of 0 of 3 sessions is here" in line for line in report.lines)


def test_middle_session_taken_out_with_its_receipts(make_career: Any, tmp_path: Path) -> None:
    """Who takes the receipts away as well is betrayed by numbers and chain, and by the manifest that names one of them."""
    career = make_career(3)
    folder = career.write(tmp_path / "history")
    wipe(folder, 2)
    assert kinds(check(career, folder)) == {"seq-gap", "chain-broken", "receipt-missing"}
    assert any("some receipts of the platform are not shown" in line for line in check(career, folder).lines)


def test_a_checkpoint_that_a_receipted_manifest_overtook_need_not_be_shown(make_career: Any, tmp_path: Path) -> None:
    """Exports hold sessions, not checkpoints, and a room lets old ones go: with all of the platform's receipts the history passes."""
    career = make_career(2)
    career.checkpoint()
    career.run_one_more()
    folder = career.write(tmp_path / "history")
    for name in ("checkpoint-0", "receipt-checkpoint-1"):
        (folder / f"{name}.dsse.json").unlink()
    for more in ([], [career.receipts(tmp_path / "platform")]):
        report = check(career, folder, more=more)
        assert report.verdict == "PASS WITH DECLARED GAPS", report.lines
    wipe(folder, 3)
    hidden = kinds(check(career, folder, more=[tmp_path / "platform"]))
    assert {"opened-no-manifest", "missing-vs-receipt"} <= hidden, "nor does it hide more"


def test_the_first_session_taken_out(make_career: Any, tmp_path: Path) -> None:
    career = make_career(3, online=False)
    folder = career.write(tmp_path / "history")
    wipe(folder, 1)
    assert kinds(check(career, folder)) == {"seq-gap"}
    assert check(career, folder, told=Told(since=2)).verdict == "PASS WITH DECLARED GAPS", "the auditor asked for these only"


def test_a_checkpoint_bounds_what_may_be_missing(make_career: Any, tmp_path: Path) -> None:
    """The last session and its receipts are gone; the platform still has the checkpoint that counted it."""
    career = make_career(3)
    career.checkpoint()
    folder = career.write(tmp_path / "history")
    assert check(career, folder).verdict == "PASS WITH DECLARED GAPS"
    wipe(folder, 3)
    assert {"checkpoint"} <= kinds(check(career, folder))
    assert "counts 3 sessions opened and 3 closed; shown are 2 and 2" in " ".join(check(career, folder).lines)


def test_a_checkpoint_taken_away_is_missed_by_its_receipt(make_career: Any, tmp_path: Path) -> None:
    career = make_career(1)
    career.checkpoint()
    folder = career.write(tmp_path / "history")
    (folder / "checkpoint-0.dsse.json").unlink()
    assert kinds(check(career, folder)) == {"missing-vs-receipt"}


def test_two_checkpoints_with_different_journals(make_career: Any, tmp_path: Path) -> None:
    career = make_career(1)
    career.checkpoint()
    career.checkpoint(journal={"seq": career.rows[-1].seq, "head_sha256": "f" * 64})
    assert kinds(check(career, career.write(tmp_path / "history"))) == {"checkpoint"}


def test_a_session_that_is_still_running(make_career: Any, tmp_path: Path) -> None:
    career = make_career(2)
    career.sessions[1].receipts.clear()
    folder = career.write(tmp_path / "history")
    for name in ("manifest-1.dsse.json", "journal.jsonl"):
        (folder / session_id(2) / name).unlink()
    shutil.rmtree(folder / session_id(2) / "segments")
    assert kinds(check(career, folder)) == {"opened-no-manifest"}
    assert check(career, folder, told=Told(open=frozenset({session_id(2)}))).verdict == "PASS"


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_new_key_needs_the_old_ones_word(make_career: Any, tmp_path: Path, times: int) -> None:
    """Also where the key changed several times with nothing signed in between: the chain of rollovers counts, and every link of it."""
    career = make_career(4, rolls=3, times=times)
    folder = career.write(tmp_path / "history")
    assert not (folder / session_id(2) / "rollover-1.dsse.json").exists(), "what comes later changes no earlier export"
    names = [f"rollover-{number}.dsse.json" for number in range(1, times + 1)]
    assert [path.name for path in sorted((folder / session_id(4)).glob("rollover-*"))] == names
    assert check(career, folder).verdict == "PASS WITH DECLARED GAPS"
    for name in names:
        taken = {place: place.read_bytes() for place in folder.rglob(name)}
        for place in taken:
            place.unlink()
        report = check(career, folder)
        assert kinds(report) == {"key-changed"} and f"from {session_id(3)} on" in report.first, name
        for place, data in taken.items():
            place.write_bytes(data)


def test_a_key_does_not_hand_over_to_itself(make_career: Any, tmp_path: Path) -> None:
    """A rollover that the new key signed proves nothing."""
    career = make_career(4, rolls=3)
    folder = career.write(tmp_path / "history")
    says = json.loads(base64.b64decode(json.loads(career.rollovers[0])["payload"]))
    says["device"]["cert_sha256"] = career.facts().cert_sha256
    for number in (3, 4):
        (folder / session_id(number) / "rollover-1.dsse.json").write_bytes(envelope.seal(envelope.KEY_ROLLOVER, says, career.device))
    assert kinds(check(career, folder)) == {"key-changed"}


def test_keys_that_hand_over_in_a_circle_lead_nowhere(make_career: Any, tmp_path: Path) -> None:
    """Two stolen keys vouch for each other; the device's own never handed over to either."""
    career = make_career(4, rolls=3, times=2)
    folder = career.write(tmp_path / "history")
    says = [json.loads(base64.b64decode(json.loads(each)["payload"])) for each in career.rollovers]
    for path in folder.rglob("rollover-1.dsse.json"):
        path.write_bytes(envelope.seal(envelope.KEY_ROLLOVER, says[1] | {
            "device": {"id": DEVICE, "cert_sha256": says[1]["new_cert_sha256"]}, "new_cert_sha256": says[1]["device"]["cert_sha256"]},
            career.device))
    assert kinds(check(career, folder)) == {"key-changed"}


def test_a_key_that_has_handed_over_signs_no_further_session(make_career: Any, tmp_path: Path) -> None:
    """The retired key was carried off before it was destroyed."""
    career = make_career(2)
    retired = career.device
    career.roll(3)
    career.device = retired
    career.run(3)
    folder = career.write(tmp_path / "history")
    assert check(career, folder).verdict == "PASS WITH DECLARED GAPS", "nobody who sees these sessions only can know"
    (folder / "rollover.dsse.json").write_bytes(career.rollovers[0])
    report = check(career, folder)
    assert kinds(report) == {"key-changed"} and f"{session_id(3)} is signed by a certificate that had handed over" in report.first


def test_a_receipt_of_another_session(make_career: Any, tmp_path: Path) -> None:
    """The digest fits, the rest does not: a platform that answers for another session answers nothing."""
    career = make_career(1)
    folder = career.write(tmp_path / "history")
    manifest = career.sessions[0].manifests[1]
    answer = career.answer("session-manifest", manifest, career.rows[-1].event.at, session=session_id(9), number=1, revision=1)
    (folder / session_id(1) / "receipt-1.dsse.json").write_bytes(answer or b"")
    report = check(career, folder)
    assert "receipt" in kinds(report) and "another session" in report.first


def test_a_receipt_by_the_device_is_none(make_career: Any, tmp_path: Path) -> None:
    true = make_career(1)
    forged = make_career(1, device=true.device, platform=true.device)
    report = check(true, forged.write(tmp_path / "history"))
    assert "role" in kinds(report) and not report.had_receipts


def test_two_manifests_for_one_session(make_career: Any, tmp_path: Path) -> None:
    true = make_career(2, online=False)
    other = make_career(2, online=False, salt="other", device=true.device)
    folder = true.write(tmp_path / "history")
    (folder / "again").mkdir()
    (folder / "again" / "manifest-1.dsse.json").write_bytes(other.sessions[1].manifests[1])
    assert {"conflict", "chain-broken"} <= kinds(check(true, folder))


def test_a_revoked_device_is_believed_only_for_what_the_platform_had_before(make_career: Any, tmp_path: Path, authority: Any) -> None:
    """Checklist E5: revoked after the receipts, in between, before; and without receipts nothing shows that it was earlier."""
    career = make_career(2)
    folder = career.write(tmp_path / "history")
    for at_s, found in ((4 * APART_S, GOOD), (2 * APART_S - 60, {"revoked", "seq-gap", "missing-vs-receipt", "opened-no-manifest"})):
        report = check(career, folder, revocations=revoked(authority, career, START.plus(at_s * US).utc_us))
        assert kinds(report) <= found and ("revoked" in kinds(report)) == bool(found), report.lines
    offline = make_career(1, online=False)
    late = revoked(authority, offline, START.plus(9 * APART_S * US).utc_us)
    report = check(offline, offline.write(tmp_path / "offline"), revocations=late)
    assert "revoked" in kinds(report) and "no receipt shows that the document is older" in report.first


def test_a_list_of_revocations_is_the_authoritys_own_or_none(make_career: Any, authority: Any, make_authority: Any) -> None:
    stranger, career = make_authority(1), make_career(1)
    with pytest.raises(RevocationError, match="signed neither by the trusted root"):
        read_lists([crl(stranger, career, START.utc_us)], authority.root_pem)
    for rubbish in (b"", b"-----BEGIN X509 CRL-----\n", b"\x30\x03abc"):
        with pytest.raises(RevocationError):
            read_lists([rubbish], authority.root_pem)


def crl(authority: Any, career: Career, utc_us: int) -> bytes:
    leaf = x509.load_pem_x509_certificates(career.device.chain_pem.encode())[0]
    entry = x509.RevokedCertificateBuilder().serial_number(leaf.serial_number).revocation_date(moment(utc_us)).build()
    made = (x509.CertificateRevocationListBuilder().issuer_name(authority.root.certificate.subject).last_update(moment(utc_us))
            .next_update(moment(utc_us + 86400 * US)).add_revoked_certificate(entry).sign(authority.root.key, hashes.SHA256()))
    return made.public_bytes(serialization.Encoding.PEM)


def moment(utc_us: int) -> datetime:
    return datetime.fromtimestamp(utc_us // US, UTC)


def revoked(authority: Any, career: Career, utc_us: int) -> Revocations:
    return read_lists([crl(authority, career, utc_us)], authority.root_pem)


def test_rubbish_among_the_documents_is_named_and_does_not_stop_the_rest(make_career: Any, tmp_path: Path) -> None:
    career = make_career(1)
    folder = career.write(tmp_path / "history")
    for name, data in {"a": b"", "b": b"{}", "c": b'{"payloadType":1,"payload":"!"}', "d": b"[" * 100_000, "e": b"\xff\xfe"}.items():
        (folder / f"{name}.dsse.json").write_bytes(data)
    (folder / "linked.dsse.json").symlink_to("/etc/passwd")
    report = check(career, folder)
    assert kinds(report) == {"unreadable-document"} and len(report.findings) == 5 and report.sessions == 1


@pytest.mark.parametrize("payload", [
    {}, {"type": "exam-device-checkpoint/v1"}, {"type": "exam-device-checkpoint/v1", "device": []},
    {"type": "exam-device-checkpoint/v1", "device": {"id": "x", "cert_sha256": "0" * 64}, "made_utc": "2026-11-26T06:00:00.000Z",
     "room": 1, "journal": {}, "counters": {}, "prev": {}},
])
def test_a_signed_document_of_no_form_is_a_finding(make_career: Any, tmp_path: Path, payload: dict[str, Any]) -> None:
    career = make_career(1)
    folder = career.write(tmp_path / "history")
    (folder / "x.dsse.json").write_bytes(envelope.seal(envelope.DEVICE_CHECKPOINT, payload, career.device))
    assert kinds(check(career, folder)) <= {"other-document", "signature"} and check(career, folder).verdict == "FAIL"


def test_no_root_is_no_trust(make_career: Any, tmp_path: Path, make_authority: Any) -> None:
    career = make_career(1)
    folder = career.write(tmp_path / "history")
    assert kinds(history.verify(folder)) == {"root"}
    stranger = history.verify(folder, make_authority(1).root_pem)
    assert kinds(stranger) == {"certificate"} and stranger.sessions == 0
    (tmp_path / "empty").mkdir()
    assert kinds(history.verify(tmp_path / "empty", career.authority.root_pem)) == {"no-session"}


def test_progress_goes_on_over_documents_and_footage(make_career: Any, tmp_path: Path) -> None:
    career = make_career(2)
    seen: list[tuple[int, int]] = []
    check(career, career.write(tmp_path / "history"), progress=lambda done, total: seen.append((done, total)))
    assert (8, 8) in seen and seen[-1] == (4800, 4800)


def test_every_kind_has_its_words_in_both_languages_and_the_report_tells_them(make_career: Any, tmp_path: Path) -> None:
    for kind, texts in words.FINDINGS.items():
        assert set(texts) == {"zh-CN", "en"} and all(len(text) > 8 for text in texts.values()), kind
    career = make_career(3)
    folder = career.write(tmp_path / "history")
    wipe(folder, 2)
    told = words.told(check(career, folder))
    assert told[0] == "FAIL" and any("编号不连续" in line for line in told) and any("numbers its sessions" in line for line in told)


@pytest.mark.parametrize(("distid", "found"), [(DISTID, GOOD), ("8765432187654321", {"sm2"})])
def test_a_second_signature_is_judged_where_somebody_asks(make_career: Any, tmp_path: Path, authority: Any, distid: str,
                                                          found: set[str]) -> None:
    """Checklist E8: absent, right and of another distinguishing id, each by its name."""
    province = Sm2Authority(tmp_path / "sm2", False)
    plain, signer = make_career(1), authority.signer("device", DEVICE)
    signer.second = province.signer(DEVICE)
    both = make_career(1, device=signer)
    for career, name in ((plain, "plain"), (both, "both")):
        folder = career.write(tmp_path / name)
        assert check(career, folder).verdict == "PASS", "nobody asked"
        report = check(career, folder, second=Second(province.root_pem, distid))
        said = " ".join(report.lines)
        if career is plain:
            assert report.verdict == "PASS" and "sm2-absent" in said
        else:
            assert kinds(report) == found and ("sm2-good" if not found else "sm2-other-distid") in said, report.lines


def test_a_session_that_was_amended_is_part_of_a_history(make_exam: Any, tmp_path: Path) -> None:
    exam = make_exam(late=True)
    folder = tmp_path / "history"
    exam.export(folder / "one")
    report = history.verify(folder, exam.authority.root_pem, told=Told(since=7))
    assert (report.verdict, report.revision, report.sessions, report.segments) == ("PASS", 2, 1, 10), report.lines
    (folder / "one" / "manifest-1.dsse.json").unlink()
    assert {"revision", "missing-vs-receipt"} <= kinds(history.verify(folder, exam.authority.root_pem, told=Told(since=7)))


def test_a_revision_that_leaves_something_out_is_found_among_many(make_exam: Any, tmp_path: Path) -> None:
    exam = make_exam(late=True, online=False)
    folder = tmp_path / "history"
    exam.export(folder / "one")
    exam.resign(folder / "one", lambda document: document["segments"].pop(0), revision=2)
    report = history.verify(folder, exam.authority.root_pem, told=Told(since=7))
    assert {"revision", "manifest"} <= kinds(report) and any("left out or changed segment" in text for text in report.findings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Career, Path, Path]:
    """A history of two sessions and a checkpoint, and the platform's receipts beside it."""
    place = tmp_path_factory.mktemp("whole")
    (place / "authority").mkdir()
    career = Career(place / "footage", TestAuthority(place / "authority"), 2)
    career.checkpoint()
    return career, career.write(place / "history"), career.receipts(place / "platform")


PROVES_NOTHING = ("VERIFY.md", "root.pem", "SHA256SUMS")


@settings(max_examples=60, deadline=None)
@given(pick=st.integers(0, 10_000), place=st.integers(0, 100_000), flip=st.integers(0, 255))
def test_nothing_is_taken_out_and_no_byte_changed_without_a_finding(whole: tuple[Career, Path, Path], pick: int, place: int,
                                                                    flip: int) -> None:
    """Whatever file is removed (`flip` 0) or changed by a byte: with the platform's receipts there is a finding, and never an exception."""
    career, folder, platform = whole
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in PROVES_NOTHING)
    path = names[pick % len(names)]
    honest = path.read_bytes()
    data = bytearray(honest)
    data[place % len(data)] ^= flip
    path.unlink()
    try:
        if flip:
            path.write_bytes(data)
        report = history.verify(folder, career.authority.root_pem, more=[platform])
    finally:
        path.write_bytes(honest)
    if report.verdict == "FAIL":
        return
    if not flip:        # a receipt of which the platform has shown its own copy need not lie here
        assert path.name.startswith("receipt"), f"{path.relative_to(folder)} is gone, and nobody missed it"
        return
    outer, was = json.loads(bytes(data)), json.loads(honest)
    if outer["payloadType"] != was["payloadType"]:      # as if it were gone: the platform has shown its own copy
        assert path.name.startswith("receipt-checkpoint"), f"{path.relative_to(folder)} is of no kind any more, and nobody missed it"
        return
    # what is left: keyid, which decides nothing, or a line's end in a PEM
    assert (outer["payload"], outer["payloadType"], outer["signatures"][0]["sig"]) == (
        was["payload"], was["payloadType"], was["signatures"][0]["sig"])
