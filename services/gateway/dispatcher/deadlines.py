"""Deadlines of thousands of calls a second, for the price of two dictionary operations each."""

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic

from services.gateway.dispatcher.calls import Call

TICK_S = 0.005  # A deadline is noticed at most this much late.


class Deadlines:
    """Calls in buckets, a bucket a tick. `expired` is told of the calls whose tick has come."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, expired: Callable[[Iterable[Call]], None]
    ) -> None:
        self._loop = loop
        self._expired = expired
        self._buckets: dict[int, dict[Call, None]] = {}
        self._tick = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call, deadline: float, now: float) -> None:
        tick = int(deadline / TICK_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            if self._timer is None:
                self._tick = int(now / TICK_S) - 1
                self._timer = self._loop.call_later(TICK_S, self._turn)
        bucket[call] = None
        call.deadline_tick = tick

    def discard(self, call: Call) -> None:
        bucket = self._buckets.get(call.deadline_tick)
        if bucket is not None:
            bucket.pop(call, None)
            if not bucket:
                del self._buckets[call.deadline_tick]

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()

    def _turn(self) -> None:
        self._timer = None
        now_tick = int(monotonic() / TICK_S)
        due: list[Call] = []
        while self._tick < now_tick:
            self._tick += 1
            bucket = self._buckets.pop(self._tick, None)
            if bucket:
                due.extend(bucket)
        if self._buckets:
            self._timer = self._loop.call_later(TICK_S, self._turn)
        if due:
            self._expired(due)
