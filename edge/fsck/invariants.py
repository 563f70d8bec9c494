"""Every invariant by its name: what must be so, what it means if it is not, what to do. The order is that of the report.

`mends`: what `--repair` does, empty where it does nothing; always something that the journal or an unchanged sidecar proves. The table in
docs/design/invariants.md is printed from here (`python -m edge.fsck.invariants`); a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Invariant:
    """`must`: what is so in a sound store; `means`: what follows if it is not; `do`: what a person does where nothing is mended."""

    must: str
    means: str
    do: str
    mends: str = ""


INVARIANTS: Mapping[str, Invariant] = {
    "database-file": Invariant(
        "SQLite's own integrity_check and foreign_key_check find nothing", "the database file is damaged; the recordings do not "
        "depend on it",
        "keep a copy of the state folder, look at the disk (smartctl -a), restore the last backup (docs/operators/backup.md)"),
    "database-form": Invariant(
        "tables, indexes and the triggers that keep the journal append-only are those of this program",
        "somebody worked on the database by hand; without its triggers a row of the journal could be changed unnoticed",
        "restore the last backup; find out who had access", "missing indexes and triggers are made again"),
    "journal-chain": Invariant(
        "each row of the journal has the hash it says, names the one before it, and is number one more",
        "facts were changed or taken out; nothing that follows from them is proven any more, so nothing is mended",
        "keep a copy; compare with the last backup and with what the province has (edge verify --store names the sessions)"),
    "possible-history": Invariant(
        "the facts can follow one another by the table of states", "the journal tells of something that cannot have happened; the room "
        "cannot start from it", "keep a copy; restore the last backup and tell the province"),
    "manifest-chain": Invariant(
        "each sealing counts the sessions before it and names the manifest signed before it", "an auditor will find the chain of "
        "manifests "
        "broken", "nothing by hand; tell the province, with the output of edge verify --store"),
    "row-as-told": Invariant(
        "a segment's row says what the journal says of it", "players, exports and the scrub would look for other bytes than were "
        "recorded",
        "-", "the row is written anew from the journal; of no session, from its unchanged sidecar"),
    "session-link": Invariant(
        "which segments belong to which session is what the journal says", "a session would be exported or kept without some of its "
        "footage",
        "-", "the links are made anew from the journal"),
    "lost-time": Invariant(
        "footage of a time that the journal has lost is held back, and a fact tells of it", "footage that nobody can account for would "
        "be removed as idle", "-", "the stretch is held back again; what no fact tells of, the room tells at its next start"),
    "kept-not-idle": Invariant(
        "a segment of a session, or of a lost time, does not count as idle", "it would be removed some hours later",
        "-", "the segment counts as kept"),
    "kept-for-nothing": Invariant(
        "a segment that counts as kept is asked for by a session or a lost time", "footage of nobody's exam lies there for ever",
        "edge reindex puts it right; the room then removes it like any idle footage. Not mended, because it leads to a removal"),
    "kept-not-garbage": Invariant(
        "what the journal says is kept is not waiting to be removed", "the room would remove footage that must be kept",
        "-", "the line that orders the removal is taken back; the files stay"),
    "garbage-or-row": Invariant(
        "what is to be removed is not in the index of what is there", "somebody worked on the database by hand; the files may go "
        "while the "
        "index still has them", "before the room starts: copy these files elsewhere if anybody may want them"),
    "row-missing": Invariant(
        "every segment that the journal gives to a kept session has a row and files", "footage of a session is gone from this disk",
        "look at the disk; fetch it from the archive or an export (edge archive get), put the files back where the journal has "
        "them, and run "
        "edge fsck --repair"),
    "row-file": Invariant(
        "every row of the index has its film and its sidecar, of the size that it says", "a recording is missing or was cut",
        "look at the disk; put the files back from the archive or an export. The row stays: what is missing must show"),
    "file-row": Invariant(
        "every sidecar of a stream, up to the newest in the index, has its row", "a recording is there and nobody finds it",
        "-", "the row is made from the sidecar"),
    "late-recording": Invariant(
        "a recording that a session covers is known to the session", "a session lacks footage that is on the disk",
        "edge reindex, then start the room: it takes the recording in and signs a further revision"),
    "sidecar-as-sealed": Invariant(
        "a sidecar is byte for byte the one that was taken in", "the description of a recording was changed or damaged",
        "put the sidecar back from the archive or an export; the digest in the index says whether it is the right one"),
    "sidecar-fit": Invariant(
        "every sidecar can be read and speaks of the film beside it", "a recording is there that cannot be taken in",
        "look at the disk; the film itself may still play. edge verify --store says whether a session needs it"),
    "film-as-sealed": Invariant(
        "every film has the bytes that were sealed (looked at with --deep only)", "a recording was changed or damaged",
        "look at the disk (smartctl -a); put the file back from the archive or an export"),
    "film-sealed": Invariant(
        "every film but the one that is being written has its sidecar", "a crash left a film unsealed",
        "start the recorder: it seals the film up to its last whole fragment"),
    "footage-total": Invariant(
        "how much footage a session has is the sum over its facts", "the forecast of space and the rule of the hundredth are wrong",
        "-", "the sums are made anew from the journal"),
    "damage-list": Invariant(
        "the list of damaged segments is what the scrub's facts say", "pages show another damage than the journal tells of",
        "-", "the list is made anew from the journal"),
    "document-label": Invariant(
        "a stored document is filed as the fact that names it says", "exports and the archive would leave it out",
        "-", "its kind, session, revision and what it answers are written anew from the journal"),
    "document-stored": Invariant(
        "every document that the journal names is stored", "a signature or receipt is lost here; the session cannot be proven from "
        "this disk "
        "alone", "fetch it: from the archive, an export, a backup, or (a receipt) from the province",
        "a key-rollover is taken from the file that the old key signed"),
    "document-promised": Invariant(
        "every stored document is named by a fact", "somebody put a document in, or facts were lost with a restored backup",
        "tell the province, which has its own list"),
    "document-bytes": Invariant(
        "every stored document has the digest that it is filed under", "the document is damaged or was changed; the courier does "
        "not send it",
        "fetch it from the archive, an export or a backup"),
    "one-manifest": Invariant(
        "every opened session has one session-open, every revision one manifest", "two signed documents contradict each other",
        "keep a copy, tell the province"),
    "outbox": Invariant(
        "every signed document is owed to the platform until its receipt was verified, and not longer", "the province would never "
        "get it, or "
        "get it again", "-", "the line is made anew; sending twice brings the same receipt"),
    "outbox-promised": Invariant(
        "what is owed to the platform was signed by a fact", "somebody worked on the database by hand",
        "tell the province; the courier sends it all the same"),
    "check-in": Invariant(
        "the list of who came in is what the journal says", "the page would show another attendance than the manifest",
        "-", "the list is made anew from the journal"),
    "people": Invariant(
        "whoever was admitted to a kept session is in the table of people", "names and numbers of an attendance are lost; the "
        "manifest is not "
        "touched", "take the state folder's backup, or the province's list"),
    "forgotten": Invariant(
        "of a session that was given up no names, numbers or pictures are left", "personal data are kept longer than they may be",
        "pictures: start the room, it removes them within the hour. Rows: tell whoever answers for personal data; the next program "
        "version "
        "or a person with the database in hands must remove them"),
    "photo": Invariant(
        "every picture that the journal names is there with its digest, and no other", "a picture of a manual check is lost, "
        "changed, or was "
        "put in", "take it from a backup of the state folder"),
    "archive-index": Invariant(
        "what counts as archived is a sealed session, and all of it", "footage might leave this machine too early",
        "edge archive verify SESSION; the room sends again what is missing"),
    "storage-identity": Invariant(
        "the footage folder is the room's own disk", "another disk, or none, is mounted: nothing of the footage was looked at",
        "mount the room's disk (docs/operators/trouble.md), then check again"),
    "keys": Invariant(
        "key, certificate and root are there, fit each other and are nobody else's to read", "the room cannot start, or cannot sign",
        "docs/operators/keys.md; edge key status says more"),
    "certificate-known": Invariant(
        "the certificate in force is the one that the room last started with, or a key-rollover names it", "the next start will say "
        "that the "
        "key was replaced, and only the authority's word stands behind the new one", "if nobody installed it: keep a copy, tell the "
        "authority"),
    "subject-key": Invariant(
        "the key that stands for people's numbers is there, 32 bytes, the one of the newest session", "people of new sessions would "
        "not be joined with those of old ones", "put the key back from the backup of the keys"),
    "staff-book": Invariant(
        "the staff's file is there and can be read", "nobody could log in or sign", "restore staff.json from the last backup"),
    "leftover": Invariant(
        "no half-written file lies in state and footage folder while nobody writes", "a crash left it; it is no footage and harms "
        "nothing",
        "remove it by hand when room and recorder rest, or leave it: the recorder clears its own at its next start"),
}


def table() -> str:
    """As in docs/design/invariants.md."""
    rows = ["| name | must be so | if not | `--repair` | else |", "|---|---|---|---|---|"]
    rows += [f"| `{name}` | {each.must} | {each.means} | {each.mends or '–'} | {'–' if each.do == '-' else each.do} |"
             for name, each in INVARIANTS.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
