"""What leaves the room as one session's export: plain members (name, size, digest, bytes or file) in, a folder or one ZIP out.

Callers: `export` (which knows what belongs to a session) and `web` (which sends the ZIP). Standard library and `durable` only.
"""
