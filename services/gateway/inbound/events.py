"""What the gateway hears: that something was deployed, or that access changed."""

from __future__ import annotations

from libs.common import flow
from libs.common.bus import Router
from libs.common.events import AccessChanged, DeploymentChanged
from services.gateway.core.following import LimitFollower, RouteFollower


def event_routes(routes: RouteFollower, limits: LimitFollower) -> Router:
    """Only nudges: what is in force comes by the streams that the gateway follows."""
    router = Router("gateway")

    @router.subscriber(flow.DEPLOYMENT_CHANGED)
    async def look_at_routes(event: DeploymentChanged) -> None:
        routes.nudge()

    @router.subscriber(flow.ACCESS_CHANGED)
    async def look_at_limits(event: AccessChanged) -> None:
        await limits.look()

    return router
