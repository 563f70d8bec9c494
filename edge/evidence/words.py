"""What each finding means, in words for people who know neither hashes nor certificates: an auditor, a clerk of a court.

One sentence what was found, one what follows from it or is to be done. Both languages, Chinese first, because the report goes into a
Chinese file. The technical text of a finding (which file, which session) stands beside it, always. Called by `edge verify` and the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from edge.evidence.report import Report

Language = Literal["zh-CN", "en"]

FINDINGS: dict[str, dict[Language, str]] = {
    "altered-file": {
        "zh-CN": "有录像文件在录制之后被改动或替换。该文件不能作为证据；请向平台或归档存储索取原件比对。",
        "en": "A recorded file was changed or replaced after it was recorded. It proves nothing any more; ask the platform or the archive "
              "for the original."},
    "missing-file": {
        "zh-CN": "清单中列明的录像文件不在这里，属于缺失。请查明去向，或从归档存储取回。",
        "en": "A recording that the signed list names is not here. Find out where it went, or fetch it from the archive."},
    "unreadable-file": {
        "zh-CN": "有文件因介质或权限原因无法读取，未能核验。请换一台电脑或另一份副本再核验。",
        "en": "A file could not be read (medium or permission), so it was not checked. Try another computer or another copy."},
    "zip-damaged": {
        "zh-CN": "压缩包(ZIP)不完整或已损坏，通常是下载或复制没有完成。请重新取得完整的压缩包后再核验。",
        "en": "The ZIP is cut off or damaged; most often a download or a copy did not come to its end. Get it whole, then check "
              "again."},
    "zip-trap": {
        "zh-CN": "压缩包(ZIP)的构造会让不同软件看到不同的文件，或把文件写到别处。考场软件不会这样生成：请勿解压，并查明其来源。",
        "en": "The ZIP is made so that different programs see different files in it, or write files elsewhere. The room's software "
              "makes none like that: do not unpack it, and ask where it comes from."},
    "extra-file": {
        "zh-CN": "有录像文件不在签名清单之内，来源无法证明，应视为事后放入。",
        "en": "A recording lies here that no signed list names. Nothing proves where it comes from: treat it as put in afterwards."},
    "sidecar": {
        "zh-CN": "录像的说明文件与签名清单的记载不一致。",
        "en": "The description beside a recording says other than the signed list."},
    "undeclared-gap": {
        "zh-CN": "录像有中断，而考场没有如实声明。这是最严重的一类问题：该时段没有录像，也没有说明。",
        "en": "The recording was interrupted and the room did not say so. This is the gravest kind: for that time there is neither picture "
              "nor explanation."},
    "times": {
        "zh-CN": "录像的时间记载自相矛盾（时长或时钟），该段录像的时间不可采信。",
        "en": "The times of a recording contradict each other (length or clock). Its time cannot be relied on."},
    "clock": {
        "zh-CN": "时钟记载不能相互印证：墙上时钟被拨动而未声明，或某段录像被安上了别的时间。",
        "en": "The clock's readings do not bear each other out: the wall clock was moved without a word, or footage got another time."},
    "incidents": {
        "zh-CN": "清单的异常事件与其余记载不一致：有事件被略去，或违纪未经两人签字即封存。",
        "en": "The list's incidents are not what the rest of it tells: one was left out, or a breach lacks its two signatures."},
    "hw-counter": {
        "zh-CN": "硬件计数器与所示场次不符：磁盘曾被恢复到旧状态，或有开场被抹去。请向平台索取全部回执并查问。",
        "en": "The hardware counter does not fit the sessions shown: the disk was set back to an older state, or an opening was wiped. Ask "
              "the platform for all receipts, and the site what happened."},
    "signature": {
        "zh-CN": "文件与其电子签名不符：文件或签名被改动过。",
        "en": "A document and its signature do not belong together: one of them was changed."},
    "certificate": {
        "zh-CN": "签名所用证书不是由所信任的主管部门根证书签发，或当时无效。请先核对根证书指纹。",
        "en": "The signer's certificate does not come from the authority that is trusted here, or was not valid then. First compare the "
              "root's fingerprint."},
    "role": {
        "zh-CN": "签名人无权签署这类文件（例如考场设备冒充平台出具回执）。",
        "en": "Somebody signed who may not sign this (such as a device making a receipt)."},
    "revoked": {
        "zh-CN": "签名证书已被主管部门吊销，没有证据表明签名在吊销之前作出。",
        "en": "The signer's certificate was taken back by the authority, and nothing proves that it signed before that."},
    "unreadable-document": {
        "zh-CN": "有签名文件已损坏，无法读取。",
        "en": "A signed document is damaged and cannot be read."},
    "missing-document": {
        "zh-CN": "缺少必需的签名文件。",
        "en": "A signed document that must be here is missing."},
    "other-document": {
        "zh-CN": "有签名文件属于另一个场次、考场或种类，被放在了这里。",
        "en": "A signed document belongs to another session, room or kind, and was put here."},
    "manifest": {
        "zh-CN": "签名清单自相矛盾：条目有缺号、断链或合计不符，说明清单被人为改过。",
        "en": "The signed list contradicts itself (numbers, chain or sums): entries were taken out or changed."},
    "revision": {
        "zh-CN": "清单的后续修订没有完整保留前一版的内容。",
        "en": "A later revision of the list does not keep what the earlier one had."},
    "journal": {
        "zh-CN": "考场过程日志与签名清单不一致，或日志被改动。",
        "en": "The room's journal was changed, or does not say what the signed list says."},
    "receipt": {
        "zh-CN": "平台回执是真的，但针对的是另一份文件：回执被挪用。",
        "en": "A true receipt of the platform, but for something else: it was moved here."},
    "rejected": {
        "zh-CN": "平台收到了清单但没有接受。请按平台给出的理由处理。",
        "en": "The platform had the list and did not accept it. See its reasons."},
    "open": {
        "zh-CN": "开场声明或其回执缺失，或不是清单所指的那一份。",
        "en": "The announcement of the session's opening, or its receipt, is missing or is not the one that the list names."},
    "sums": {
        "zh-CN": "SHA256SUMS 与签名清单不符；以签名清单为准。",
        "en": "SHA256SUMS says other than the signed list; the signed list counts."},
    "root": {
        "zh-CN": "没有可信任的根证书，无法核验。请从主管部门取得根证书，用 --root 指定。",
        "en": "There is no root certificate to trust, so nothing could be checked. Get it from the authority and name it with --root."},
    "no-session": {
        "zh-CN": "这里没有签名清单：不是导出的场次，或清单已被取走。",
        "en": "There is no signed list here: this is no exported session, or the list was taken away."},
    "seq-gap": {
        "zh-CN": "设备的场次编号不连续：有场次被取走或被冒充。",
        "en": "The device numbers its sessions without a hole, and a number is missing or borne twice: a session was taken out or put in."},
    "chain-broken": {
        "zh-CN": "每份清单都指明其前一份；这条链在此断开，说明中间被取走或被替换。",
        "en": "Each list names the one before it. Here that chain is broken: something between was taken out or replaced."},
    "replay": {
        "zh-CN": "一份旧文件被重复放置，冒充另一个场次。",
        "en": "An old document was put in the place of another session."},
    "conflict": {
        "zh-CN": "同一场次同一版本有两份不同的清单。",
        "en": "There are two different lists for the same revision of the same session."},
    "opened-no-manifest": {
        "zh-CN": "该场次曾经开场，却没有封存清单：场次被取走、被清除，或仍在进行。",
        "en": "This session was opened, and no signed list ends it: it was taken away or wiped, or is still running."},
    "missing-vs-receipt": {
        "zh-CN": "平台曾收到某份文件并出具回执，这里却没有该文件：已被取走。",
        "en": "The platform signed for a document that is not here: it was taken away."},
    "differs-from-receipt": {
        "zh-CN": "这里的文件与平台当时收到的不是同一份：事后重做。",
        "en": "The document here is not the one that the platform had: it was made anew afterwards."},
    "receipt-missing": {
        "zh-CN": "有平台回执缺失。请向平台索取全部回执后再核验。",
        "en": "A receipt of the platform is missing. Ask the platform for all of them and check again."},
    "counters": {
        "zh-CN": "设备的开场、封存计数与场次编号不符。",
        "en": "The device's counts of opened and closed sessions do not fit the session's number."},
    "checkpoint": {
        "zh-CN": "设备检查点所记的场次数与这里的不一致：有场次被取走，或历史被改写。",
        "en": "A checkpoint counts other sessions than are here: some were taken away, or the history was made anew."},
    "key-changed": {
        "zh-CN": "设备换了签名密钥，而旧密钥没有签署移交：可能换了设备或密钥被冒用。",
        "en": "The device signs with another key, and the old key did not hand over: another device, or a stranger's key."},
    "schedule": {
        "zh-CN": "考试计划中有该场次，这里却没有任何相关文件。",
        "en": "By the exam schedule there was this session, and nothing of it is here."},
    "store-journal": {
        "zh-CN": "本机日志链不完整：有记录被改动、删除或调换。请立即停用该数据库副本并从备份核对。",
        "en": "The journal of this room is not whole: a row was changed, removed or moved. Keep this copy as it is and compare it with a "
              "backup."},
    "store-row": {
        "zh-CN": "数据库中的录像索引与磁盘或日志不一致。",
        "en": "The index of recordings says other than the disk or the journal."},
    "store-snapshot": {
        "zh-CN": "考场状态快照与日志不符：有人改动过快照，或程序有误。以日志为准；请保留该数据库副本，并清空快照表后重新启动。",
        "en": "The snapshot of the room's state says other than its journal: somebody changed it, or the program is wrong. The journal "
              "counts. Keep a copy of the database, then empty the table `snapshot` and start anew."},
    "sm2": {
        "zh-CN": "国密（SM2）第二签名不成立；第一签名单独有效，见其余结论。",
        "en": "The second signature (SM2) does not hold. The first one stands for itself; see the rest."},
    "other": {
        "zh-CN": "发现问题，详见右侧说明。",
        "en": "Something is wrong; see the text beside."},
}

VERDICTS: dict[str, dict[Language, str]] = {
    "PASS": {
        "zh-CN": "通过：所示文件齐全、一字未改，录像覆盖全程。",
        "en": "Everything shown is there and unchanged, and the recordings cover the whole time."},
    "PASS WITH DECLARED GAPS": {
        "zh-CN": "通过（有已声明缺口）：没有改动和遗漏；考场自己声明了哪些时段未能录制及原因。缺口是否影响，由您判断。",
        "en": "Nothing was changed or left out. The room itself says what it could not record, when and why; whether that matters is yours "
              "to judge."},
    "FAIL": {
        "zh-CN": "不通过：发现下列问题。",
        "en": "Something is wrong, as listed."},
}

LIMITS: dict[bool, dict[Language, str]] = {
    True: {
        "zh-CN": "核验依据：设备签名与平台签名回执。平台收到过的内容，事后增删改均会被发现。",
        "en": "Checked against the device's signatures and the platform's receipts: whatever the platform had cannot have been changed, "
              "added or removed since without showing."},
    False: {
        "zh-CN": "核验依据：仅有设备签名，没有（全部）平台回执。最多只能证明到所示最后一份清单为止；"
                 "持有设备密钥的人可以重做或删去其后的场次。请向平台索取回执。",
        "en": "Checked against the device's signatures alone, or with part of the platform's receipts: complete at most up to the last "
              "list shown. Whoever held the device's key could have made it anew or left out a later session. Ask the platform for its "
              "receipts."},
}


def language(wanted: str) -> Language:
    """`wanted` if it is one of ours, else English."""
    return "zh-CN" if wanted == "zh-CN" else "en"


def sentences(report: Report, tongue: Language) -> Iterator[tuple[str, str, list[str]]]:
    """(word, what it means, the findings' own texts), one for each kind of finding, in the order in which they were found."""
    texts: dict[str, list[str]] = {}
    for fault in report.findings:
        texts.setdefault(fault.word if fault.word in FINDINGS else "other", []).append(str(fault))
    for word, found in texts.items():
        yield word, FINDINGS[word][tongue], found


def told(report: Report, most: int = 5) -> list[str]:
    """The report for people, both languages: verdict, what is wrong, and what the check can and cannot show."""
    lines = [f"{report.verdict}", f"  {VERDICTS[report.verdict]['zh-CN']}", f"  {VERDICTS[report.verdict]['en']}"]
    english = {word: means for word, means, _ in sentences(report, "en")}
    for number, (word, means, texts) in enumerate(sentences(report, "zh-CN"), 1):
        lines += [f"{number}. {means}", f"   {english[word]}"]
        lines += [f"   - {text}" for text in texts[:most]]
        if len(texts) > most:
            lines.append(f"   - … {len(texts) - most} more of this kind 另有 {len(texts) - most} 处")
    return [*lines, LIMITS[report.had_receipts]["zh-CN"], LIMITS[report.had_receipts]["en"]]
