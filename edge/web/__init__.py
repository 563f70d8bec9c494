"""The pages: what people in the room see and press, and what an auditor plays.

Enters: HTTP requests of browsers on the room's own network. Leaves: HTML, server-sent events, playlists, byte ranges; and calls of
the Room's verbs, which alone change anything. Callers: `app` builds it with `web.app.build_web`. Local time exists only here.
"""
