"""Limits put and shown, and what the door does now."""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.errors import DependencyError, NotFoundError
from services.gateway.core.door import Door
from services.gateway.core.following import EnvoyFollower, LimitFollower, RouteFollower
from services.gateway.core.limits import Limits, Noted, TenantLimits

# A changed limit is in force before the call that changed it is answered, if Envoy judges in time.
IN_FORCE_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class DoorReport:
    configuration_sha256: str
    routes_version: int
    routes: int
    refused: str
    envoy_restarts: int


@dataclass(frozen=True, slots=True)
class Doorkeeping:
    door: Door
    limits: TenantLimits
    limit_follower: LimitFollower
    route_follower: RouteFollower
    envoy: EnvoyFollower

    def report(self) -> DoorReport:
        return DoorReport(
            configuration_sha256=self.door.configuration_sha256,
            routes_version=self.door.table.version,
            routes=len(self.door.table.routes),
            refused=self.door.problem or self.envoy.refused,
            envoy_restarts=self.envoy.restarts,
        )

    async def put_limits(self, tenant: str, limits: Limits, by: str) -> Noted:
        self._known(tenant)
        noted = await self.limits.put(tenant, limits, by)
        await self.limit_follower.look()
        await self.door.settled(IN_FORCE_S_MAX)
        return noted

    async def get_limits(self, tenant: str) -> Noted:
        self._known(tenant)
        return await self.limits.get(tenant)

    def _known(self, tenant: str) -> None:
        if not self.door.tenants:
            raise DependencyError(
                "The tenants are not known yet: security has not been reached.",
                which="security",
                next_step="Try again shortly; `basalt status` shows what is wrong.",
            )
        if tenant not in self.door.tenants:
            raise NotFoundError(
                f"There is no tenant {tenant}.",
                which=f"tenant/{tenant}",
                next_step="The platform's administrator creates tenants.",
            )
