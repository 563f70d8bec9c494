"""`edge fsck`: do journal, index, documents, outbox, people's rows, footage folder and state folder agree with each other?

In goes a configuration, out come findings: each the name of an invariant (`invariants`, docs/design/invariants.md) and what contradicts it.
Only what follows from the journal or from an unchanged sidecar is ever mended; nothing is deleted. Called by the `edge` command alone.
"""
