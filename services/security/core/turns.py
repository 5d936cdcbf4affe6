"""Turns at work that takes long: a few at a time, one address after the other.

A flood from one address waits behind itself: whoever comes from elsewhere has the next turn, and
where no more may wait, what gives way is the newest of the address that has most waiting.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from libs.common.errors import LimitError

Waiting = asyncio.Future[None]


class FairTurns:
    def __init__(self, at_once_max: int, waiting_max: int, waiting_of_address_max: int) -> None:
        self._free = at_once_max
        self._waiting_max = waiting_max
        self._waiting_of_address_max = waiting_of_address_max
        self._queues: OrderedDict[str, deque[Waiting]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Raises LimitError where too many wait."""
        if self._free and not self._queues:
            self._free -= 1
        else:
            await self._wait(address)
        try:
            yield
        finally:
            self._next()

    async def _wait(self, address: str) -> None:
        queue = self._queues.get(address, deque[Waiting]())
        if len(queue) >= self._waiting_of_address_max:
            raise _too_many()
        if sum(map(len, self._queues.values())) >= self._waiting_max:
            self._give_way(len(queue))
        mine: Waiting = asyncio.get_running_loop().create_future()
        queue.append(mine)
        self._queues[address] = queue
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.exception() is None:
                self._next()  # The turn had come: it is somebody else's now.
            self._leave(address, mine)
            raise

    def _give_way(self, own: int) -> None:
        """Makes room for one that has `own` others waiting. Raises LimitError where it has most."""
        address, longest = max(self._queues.items(), key=lambda each: len(each[1]))
        if len(longest) <= own + 1:
            raise _too_many()
        newest = longest.pop()
        newest.set_exception(_too_many())
        if not longest:
            del self._queues[address]

    def _next(self) -> None:
        while self._queues:
            address, queue = self._queues.popitem(last=False)
            first = queue.popleft()
            if queue:
                self._queues[address] = queue  # Behind all others.
            if not first.done():
                first.set_result(None)
                return
        self._free += 1

    def _leave(self, address: str, mine: Waiting) -> None:
        queue = self._queues.get(address)
        if queue is not None and mine in queue:
            queue.remove(mine)
            if not queue:
                del self._queues[address]


def _too_many() -> LimitError:
    return LimitError(
        "Too many passwords are waiting to be checked.",
        which="HASHES_WAITING_MAX",
        next_step="Try again in a few seconds.",
    )
