"""What the room remembers: one SQLite file, its journal, and the indexes that can be rebuilt from the disk.

Enters: facts with their rows, in one transaction each. Leaves: the journal's rows, segments, people, outbox items.
Callers: `room` writes; `web`, `app` and `notary` read. Standard library's sqlite3 on the hot path; sqlite-utils for the schema.
"""
