"""The door's own settings over gRPC: convert, call, convert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common.identity import caller
from libs.common.pb.basalt.v1 import common_pb2
from libs.common.pb.basalt.v1 import gateway_pb2 as pb
from libs.common.pb.basalt.v1 import gateway_pb2_grpc as pb_grpc
from services.gateway.core.doorkeeping import Doorkeeping
from services.gateway.core.limits import Limits, Noted


@dataclass(frozen=True, slots=True)
class GatewayServicer(pb_grpc.GatewayServiceServicer):
    RPC_NAME: ClassVar[str] = pb.DESCRIPTOR.services_by_name["GatewayService"].full_name

    doorkeeping: Doorkeeping

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_GatewayServiceServicer_to_server(self, server)

    async def GetDoor(  # noqa: N802
        self, request: pb.GetDoorRequest, context: Any
    ) -> pb.GetDoorResponse:
        report = self.doorkeeping.report()
        return pb.GetDoorResponse(
            configuration_sha256=report.configuration_sha256,
            routes_version=report.routes_version,
            routes=report.routes,
            refused=report.refused,
            envoy_restarts=report.envoy_restarts,
        )

    async def PutLimits(  # noqa: N802
        self, request: pb.PutLimitsRequest, context: Any
    ) -> pb.PutLimitsResponse:
        who, given = caller(), request.limits
        noted = await self.doorkeeping.put_limits(
            given.tenant or who.tenant, _from_message(given), who.subject
        )
        return pb.PutLimitsResponse(limits=_message(noted))

    async def GetLimits(  # noqa: N802
        self, request: pb.GetLimitsRequest, context: Any
    ) -> pb.GetLimitsResponse:
        noted = await self.doorkeeping.get_limits(request.tenant or caller().tenant)
        return pb.GetLimitsResponse(limits=_message(noted))


def _from_message(given: pb.Limits) -> Limits:
    return Limits(
        requests_per_second=given.requests_per_second,
        requests_in_flight_max=given.requests_in_flight_max,
        message_bytes_max=given.message_bytes_max,
        sample_fraction=given.sample_fraction if given.HasField("sample_fraction") else None,
    )


def _message(noted: Noted) -> pb.Limits:
    """What is in force, defaults filled in; `changed` only where the tenant has limits put."""
    limits = noted.limits.effective()
    shown = pb.Limits(
        tenant=noted.tenant,
        requests_per_second=limits.requests_per_second,
        requests_in_flight_max=limits.requests_in_flight_max,
        message_bytes_max=limits.message_bytes_max,
        sample_fraction=limits.sample_fraction,
    )
    if noted.at is not None:
        at = Timestamp()
        at.FromDatetime(noted.at)
        shown.changed.CopyFrom(common_pb2.Stamp(at=at, by=noted.by, cause=noted.cause))
    return shown
