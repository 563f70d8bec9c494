"""A request that is sent twice does one thing: the answers of the last few hundred request ids are kept in memory.

The Room's verbs do nothing twice by state either; this also gives the second sender the first one's answer. A refused request is
not kept: nothing happened, and the same form may be sent again. Lost at a restart, where the Room's own state still holds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

KEPT = 400


class Once:
    """Remembers where each finished request led."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._led_to: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def do(self, sender: str, request_id: str, act: Callable[[], Awaitable[str]]) -> str:
        """Run `act`, which says where to go next, unless this sender's request was done already. What it raises leaves here."""
        async with self._turn:
            if (before := self._led_to.get((sender, request_id))) is not None and request_id:
                return before
            to = await act()
            if request_id:
                self._led_to[sender, request_id] = to
                while len(self._led_to) > KEPT:
                    self._led_to.popitem(last=False)
            return to
