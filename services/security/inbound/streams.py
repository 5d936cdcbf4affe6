"""security's RPCs about Kafka, for ingest: convert, call, convert."""

from __future__ import annotations

from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from libs.common import topics
from libs.common.identity import caller
from libs.common.pb.basalt.v1 import common_pb2, security_pb2_grpc
from libs.common.pb.basalt.v1 import security_pb2 as pb
from services.security.core.source_keys import SourceKey
from services.security.core.upkeep import Upkeep


class StreamServicer(security_pb2_grpc.StreamServiceServicer):
    def __init__(self, upkeep: Upkeep, replication: int) -> None:
        self._upkeep = upkeep
        self._replication = replication

    def register(self, server: grpc.aio.Server) -> None:
        security_pb2_grpc.add_StreamServiceServicer_to_server(self, server)

    async def PutStream(  # noqa: N802
        self, request: pb.PutStreamRequest, context: Any
    ) -> pb.PutStreamResponse:
        topic = topics.upstream_topic(
            caller().tenant, request.source, self._replication, durable=request.durable
        )
        await self._upkeep.put_topic(topic)
        return pb.PutStreamResponse(topic=topic.name)

    async def CreateStreamKey(  # noqa: N802
        self, request: pb.CreateStreamKeyRequest, context: Any
    ) -> pb.CreateStreamKeyResponse:
        key, password = await self._upkeep.create_key(caller().tenant, request.source, request.by)
        return pb.CreateStreamKeyResponse(key=_source_key(key), password=password)

    async def RotateStreamKey(  # noqa: N802
        self, request: pb.RotateStreamKeyRequest, context: Any
    ) -> pb.RotateStreamKeyResponse:
        key, password = await self._upkeep.rotate_key(
            caller().tenant, request.source, request.id, request.by
        )
        return pb.RotateStreamKeyResponse(key=_source_key(key), password=password)

    async def RevokeStreamKey(  # noqa: N802
        self, request: pb.RevokeStreamKeyRequest, context: Any
    ) -> pb.RevokeStreamKeyResponse:
        key = await self._upkeep.revoke_key(caller().tenant, request.source, request.id, request.by)
        return pb.RevokeStreamKeyResponse(key=_source_key(key))

    async def ListStreamKeys(  # noqa: N802
        self, request: pb.ListStreamKeysRequest, context: Any
    ) -> pb.ListStreamKeysResponse:
        keys, token = await self._upkeep.keys.page(
            caller().tenant, request.source, request.page.size, request.page.token
        )
        return pb.ListStreamKeysResponse(keys=map(_source_key, keys), next_page_token=token)


def _source_key(key: SourceKey) -> pb.SourceKey:
    at = Timestamp()
    at.FromDatetime(key.entry.at)
    return pb.SourceKey(
        id=key.state.id,
        source=key.state.source,
        topic=key.topic,
        user=key.user,
        revoked=key.state.revoked,
        changed=common_pb2.Stamp(at=at, by=key.entry.by, cause=key.entry.cause),
    )
