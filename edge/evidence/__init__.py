"""The proof: hash chain, signed envelopes, manifest, and the check of an exported session.

In: facts of the journal, the room's own facts, keys and certificates as files, an exported folder. Out: hashes, signed bytes,
canonical documents, a verdict. No daemon, no database, no network: standard library,
`cryptography` and `rfc8785` only, so that an auditor can be given this package with `edge.sessions`, `edge.clock` and `edge.durable`.
Called by the room, the platform's stand-in and the door.
"""
