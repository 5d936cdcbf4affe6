"""Fair turns between tenants: who asks for much waits for itself, not others for it.

Start-time fair queueing (Goyal, Vin, Cheng: SIGCOMM 1996). Each turn has a start: where the latest
turn of its tenant ended, or the present, whichever is later; the earliest start is next. Time here
is turns: one moves a tenant on by 1 / its share. So tenants that always have something waiting get
turns in proportion to their shares, and one that comes anew is next after the turn at hand.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

SHARE_DEFAULT = 1.0
# Tenants whose latest turn is remembered; those that are level with the present need not be.
TENANTS_REMEMBERED_MAX = 1_000

T = TypeVar("T")


class Turns:
    """Whose turn is next. `shares` names tenants that get more turns, or fewer, than others."""

    def __init__(self, shares: Mapping[str, float] | None = None) -> None:
        self._shares = shares or {}
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def start(self, tenant: str) -> float:
        """Of the tenant's next turn; among those who wait, the earliest is next."""
        return max(self._now, self._ends.get(tenant, 0.0))

    def took(self, tenant: str) -> None:
        start = self.start(tenant)
        self._ends[tenant] = start + self._length(tenant)
        # Not every turn is the earliest: a tenant that may not take another one is passed over.
        self._now = max(self._now, start)
        if len(self._ends) > TENANTS_REMEMBERED_MAX:
            self._ends = {name: end for name, end in self._ends.items() if end > self._now}

    def order(self, waiting: Iterable[tuple[str, T]]) -> list[T]:
        """What waits, each with its tenant, first come first: in the order in which it is taken.

        A tenant's own keep their order. Nothing is taken yet.
        """
        lanes: dict[str, deque[tuple[int, T]]] = {}
        for number, (tenant, item) in enumerate(waiting):
            lanes.setdefault(tenant, deque()).append((number, item))
        # Of equal starts, whoever came first.
        heads = [(self.start(tenant), lane[0][0], tenant) for tenant, lane in lanes.items()]
        heapq.heapify(heads)
        ordered: list[T] = []
        while heads:
            start, _, tenant = heapq.heappop(heads)
            lane = lanes[tenant]
            ordered.append(lane.popleft()[1])
            if lane:
                heapq.heappush(heads, (start + self._length(tenant), lane[0][0], tenant))
        return ordered

    def _length(self, tenant: str) -> float:
        return 1.0 / self._shares.get(tenant, SHARE_DEFAULT)


class Gate:
    """Lets in `at_once` at a time, `tenant_at_once` of one tenant, and others as they leave."""

    def __init__(
        self, at_once: int, tenant_at_once: int, shares: Mapping[str, float] | None = None
    ) -> None:
        self._at_once = at_once
        self._tenant_at_once = tenant_at_once
        self._turns = Turns(shares)
        self._inside: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        await self._enter(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    async def _enter(self, tenant: str) -> None:
        called = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(called)
        self._call()
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():
                # It was called at the moment in which its caller went away.
                self._leave(tenant)
            else:
                self._forget(tenant, called)
            raise

    def _leave(self, tenant: str) -> None:
        self._inside[tenant] -= 1
        if not self._inside[tenant]:
            del self._inside[tenant]
        self._call()

    def _call(self) -> None:
        while self._inside.total() < self._at_once:
            who = [each for each in self._waiting if self._inside[each] < self._tenant_at_once]
            if not who:
                return
            tenant = min(who, key=self._turns.start)
            called = self._waiting[tenant][0]
            self._forget(tenant, called)
            self._inside[tenant] += 1
            self._turns.took(tenant)
            called.set_result(None)

    def _forget(self, tenant: str, called: asyncio.Future[None]) -> None:
        lane = self._waiting[tenant]
        lane.remove(called)
        if not lane:
            del self._waiting[tenant]
