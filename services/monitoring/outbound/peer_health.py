"""Asks a service how it is: for its own account, and over gRPC's health protocol if it must."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from libs.common.clock import Clock
from libs.common.errors import BasaltError
from libs.common.health import CHECK_TIMEOUT_S
from libs.common.pb.basalt.v1 import health_pb2 as pb
from libs.common.pb.basalt.v1.health_pb2_grpc import HealthServiceStub
from libs.common.rpc import Peers, translated
from services.monitoring.core.components import Component, State

# A service looks at its dependencies for up to `health.CHECK_TIMEOUT_S` before it answers.
ASK_TIMEOUT_S = CHECK_TIMEOUT_S + 1.0
ASK_GRPC_TIMEOUT_S = 2.0


class PeerHealth:
    """`open_peers` carry no token: gRPC's own health answers even while security is down."""

    def __init__(self, own: str, peers: Peers, open_peers: Peers, clock: Clock) -> None:
        self._own = own
        self._peers = peers
        self._open_peers = open_peers
        self._clock = clock

    async def ask(self, service: str) -> Sequence[Component]:
        try:
            with translated(service):
                answer = await self._peers.stub(HealthServiceStub, service).GetServiceHealth(
                    pb.GetServiceHealthRequest(),
                    timeout=ASK_TIMEOUT_S,
                    # Our own server is there, though a channel to it may be older than it is.
                    wait_for_ready=service == self._own,
                )
        except BasaltError as error:
            return [await self._ask_grpc(service, error)]
        return [_component(each) for each in answer.components]

    async def _ask_grpc(self, service: str, refused: BasaltError) -> Component:
        """A service that lives but cannot account for itself is degraded. Raises `refused`."""
        try:
            with translated(service):
                stub: Any = self._open_peers.stub(HealthStub, service)
                answer = await stub.Check(
                    health_pb2.HealthCheckRequest(), timeout=ASK_GRPC_TIMEOUT_S
                )
        except BasaltError:
            raise refused from None
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise refused
        problem = f"It runs, but cannot be asked about its dependencies: {refused.what}"
        now = self._clock.now()
        return Component(service, State.DEGRADED, problem, now, "monitoring")


def _component(health: pb.ComponentHealth) -> Component:
    state = health.state or pb.HEALTH_STATE_NOT_SERVING
    return Component(
        name=health.component,
        state=State(state),
        problem=health.problem,
        checked_at=health.checked_at.ToDatetime(UTC),
        reported_by=health.reported_by,
    )
