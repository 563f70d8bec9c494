"""The room's line to the province's platform: plans, rosters, heartbeats in and out; signed envelopes out, receipts back.

In: items of the outbox (bytes that are already signed) and a snapshot for the heartbeat. Out: through the callables that the room
gave: plans, roster envelopes, receipt envelopes, PlatformLost and PlatformBack. Nothing here judges a signature: the room does.
Called by the composition root (`edge.app`), which runs one task each of `courier`, `timetable` and `heartbeat`.
"""
