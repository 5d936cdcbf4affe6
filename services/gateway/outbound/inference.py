"""inference's table of routes, as it streams it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from libs.common.pb.basalt.v1 import inference_pb2 as pb
from libs.common.pb.basalt.v1.inference_pb2_grpc import DeploymentServiceStub
from libs.common.rpc import Peers, translated
from services.gateway.core.table import RoutedModel, RoutedVariant, Table


class InferenceRoutes:
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def tables(self) -> AsyncIterator[Table | None]:
        with translated("inference"):
            stub = self._peers.stub(DeploymentServiceStub, "inference")
            call = stub.WatchRoutes(pb.WatchRoutesRequest())
            # These come when inference has taken the call, a table when Triton has the models.
            await call.initial_metadata()
            yield None
            async for answer in call:
                yield _table(answer)


def _table(answer: pb.WatchRoutesResponse) -> Table:
    return Table(
        version=answer.table_version,
        routes=tuple(
            RoutedModel(
                tenant=route.tenant,
                model=route.model,
                revision=route.revision,
                variants=tuple(
                    RoutedVariant(
                        internal_name=each.internal_name,
                        version=each.version,
                        manifest_sha256=each.manifest_sha256,
                        weight=each.weight,
                    )
                    for each in route.variants
                ),
                batch_size_max=route.batch_size_max,
                features=tuple(route.features),
            )
            for route in answer.routes
        ),
    )
