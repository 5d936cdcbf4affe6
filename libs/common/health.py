"""What a service says of itself and of what it depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc.aio
import structlog

from libs.common.clock import Clock
from libs.common.errors import BasaltError, LimitError
from libs.common.pb.basalt.v1 import health_pb2 as pb
from libs.common.pb.basalt.v1 import health_pb2_grpc as pb_grpc
from libs.common.runtime import Part

CHECK_TIMEOUT_S = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """A dependency and how to ask whether it is there; `ping` raises when it is not."""

    dependency: str
    ping: Callable[[], Awaitable[object]]


class Health(pb_grpc.HealthServiceServicer):
    """Asked, it looks; nothing is cached. `watched` parts tell of themselves in `problem`."""

    name = "health"
    RPC_NAME: ClassVar[str] = pb.DESCRIPTOR.services_by_name["HealthService"].full_name

    def __init__(
        self, service: str, clock: Clock, checks: Sequence[Check], watched: Sequence[Part] = ()
    ) -> None:
        self._service = service
        self._clock = clock
        self._checks = checks
        self._watched = watched

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_HealthServiceServicer_to_server(self, server)

    async def start(self) -> None:
        """Health is asked for, not run."""

    async def stop(self) -> None:
        """Health is asked for, not run."""

    async def GetServiceHealth(  # noqa: N802 - the name in the contract.
        self, request: pb.GetServiceHealthRequest, context: Any
    ) -> pb.GetServiceHealthResponse:
        dependencies = await asyncio.gather(*(self._look(check) for check in self._checks))
        problems = [problem for part in self._watched if (problem := getattr(part, "problem", ""))]
        worst = pb.HEALTH_STATE_DEGRADED if problems else pb.HEALTH_STATE_SERVING
        own = self._component(self._service, worst, " ".join(problems))
        return pb.GetServiceHealthResponse(components=[own, *dependencies])

    async def _look(self, check: Check) -> pb.ComponentHealth:
        try:
            await asyncio.wait_for(check.ping(), CHECK_TIMEOUT_S)
        except TimeoutError:
            problem = f"No answer within {CHECK_TIMEOUT_S:.0f} s."
        except LimitError as error:
            # It is there, and near a limit.
            return self._component(check.dependency, pb.HEALTH_STATE_DEGRADED, str(error))
        except BasaltError as error:
            problem = str(error)
            if error.inside:
                log.warning("dependency_down", dependency=check.dependency, error=error.whole)
        except Exception:
            log.exception("dependency_down", dependency=check.dependency)
            problem = f"It failed by a fault of ours: the log of {self._service} has more."
        else:
            return self._component(check.dependency, pb.HEALTH_STATE_SERVING, "")
        return self._component(check.dependency, pb.HEALTH_STATE_NOT_SERVING, problem)

    def _component(self, component: str, state: pb.HealthState, problem: str) -> pb.ComponentHealth:
        health = pb.ComponentHealth(
            component=component, state=state, problem=problem, reported_by=self._service
        )
        health.checked_at.FromDatetime(self._clock.now())
        return health
