"""Devices and partners that are not there: each stands at the far end of the real wire (a pty, a socket, HTTP).

Enters: what the daemon sends over that wire, and the controls of a person or a test. Leaves: answers as the real thing gives
them. Callers: `edge sim …`, `edge demo`, tests. Nothing below this floor knows that it exists.
"""
