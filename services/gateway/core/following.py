"""Follows what is decided elsewhere: routes, limits, and how Envoy is doing."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from libs.common.errors import BasaltError
from libs.common.runtime import ended, lasting
from services.gateway.core.door import Door
from services.gateway.core.limits import TenantLimits
from services.gateway.ports import DoorFolder, EnvoyWatch, RouteFeed

RETRY_S = 0.25
RETRY_S_MAX = 5.0
NO_TABLE_YET = "inference has no routes yet: it waits until Triton has the deployed models."
ACCESS_LOG_BYTES_MAX = 64 * 1024 * 1024

log = structlog.get_logger(__name__)


class RouteFollower:
    """A part of the runtime. Without inference the last table stays in force."""

    name = "routes"

    def __init__(self, feed: RouteFeed, door: Door) -> None:
        self._feed = feed
        self._door = door
        self._nudged = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.problem = "Routes have not arrived yet."

    async def start(self) -> None:
        self._task = lasting(self._follow(), self.name)

    async def stop(self) -> None:
        await ended(self._task)

    def nudge(self) -> None:
        """Something was deployed: where the table is not being followed, asks for it now."""
        self._nudged.set()

    async def _follow(self) -> None:
        pause_s = RETRY_S
        while True:
            self._nudged.clear()
            try:
                async for table in self._feed.tables():
                    pause_s = RETRY_S
                    self.problem = NO_TABLE_YET if table is None else ""
                    if table is not None:
                        self._door.take_table(table)
            except BasaltError as error:
                self.problem = f"Routes are not being followed: {error}"
                log.warning("routes_not_followed", error=str(error), again_in_s=pause_s)
            with contextlib.suppress(TimeoutError):
                # wait_for of Python 3.11 may lose a cancellation.
                async with asyncio.timeout(pause_s):
                    await self._nudged.wait()
            pause_s = min(pause_s * 2, RETRY_S_MAX)


@dataclass(frozen=True, slots=True)
class LimitFollower:
    """Another gateway may have put limits into the journal that we share."""

    limits: TenantLimits
    door: Door

    async def look(self) -> None:
        found = await self.limits.all()
        self.door.take_limits({tenant: each.effective() for tenant, each in found.items()})


class EnvoyFollower:
    """Counts Envoy's restarts, hears of what it refuses, and keeps its log within bounds."""

    def __init__(self, envoy: EnvoyWatch, folder: DoorFolder, log_name: str) -> None:
        self._envoy = envoy
        self._folder = folder
        self._log_name = log_name
        self._uptime_s = 0
        self._refused = 0
        self.restarts = 0
        self.refused = ""

    async def look(self) -> None:
        self._folder.trim(self._log_name, ACCESS_LOG_BYTES_MAX)
        with contextlib.suppress(BasaltError):  # The health check says so by itself.
            status = await self._envoy.status()
            if status.uptime_s < self._uptime_s:
                self.restarts += 1
                self._refused = 0
                self.refused = ""
            if status.refused > self._refused:
                self.refused = "Envoy itself refused a configuration; its log says why."
            self._uptime_s, self._refused = status.uptime_s, status.refused
