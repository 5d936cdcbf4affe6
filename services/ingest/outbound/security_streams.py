"""The topics of sources and the keys to them: security administers Kafka, and is asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from libs.common.errors import DependencyError
from libs.common.identity import acting_for
from libs.common.kafka import KafkaAccess
from libs.common.pb.basalt.v1 import common_pb2
from libs.common.pb.basalt.v1 import security_pb2 as pb
from libs.common.pb.basalt.v1.security_pb2_grpc import StreamServiceStub
from libs.common.peers import within_deadline
from libs.common.rpc import Peers, translated
from services.ingest.ports import SourceKey, Stream

LOOK_S_MAX = 8.0


@dataclass(frozen=True, slots=True)
class SecurityTopics:
    access: KafkaAccess
    peers: Peers

    async def put(self, stream: Stream) -> None:
        request = pb.PutStreamRequest(source=stream.source, durable=stream.durable)
        with translated("security"), acting_for(stream.tenant):
            await self.peers.stub(StreamServiceStub, "security").PutStream(request)

    async def ensure(self, streams: Sequence[Stream]) -> None:
        """Security is needed only where one is missing, so without it the others are read."""
        there = await self._look()
        for stream in streams:
            if stream.topic not in there:
                await self.put(stream)

    async def _look(self) -> set[str]:
        """The names of Kafka's topics. Raises DependencyError when it does not tell them."""
        try:
            return await asyncio.wait_for(self._there(), within_deadline(LOOK_S_MAX))
        except (KafkaError, OSError, TimeoutError) as error:
            raise DependencyError(
                "Kafka cannot be asked for the sources' topics.",
                which="kafka",
                next_step="Try again when `basalt status` shows it serving.",
                inside=f"{self.access.bootstrap}: {error!r}",
            ) from error

    async def _there(self) -> set[str]:
        admin = AIOKafkaAdminClient(**self.access.for_aiokafka())
        try:
            await admin.start()
            return set(await admin.list_topics())
        finally:
            await admin.close()


@dataclass(frozen=True, slots=True)
class SecurityKeys:
    peers: Peers

    async def create(self, source: str, by: str) -> tuple[SourceKey, str]:
        with translated("security"):
            answer = await self._stub().CreateStreamKey(
                pb.CreateStreamKeyRequest(source=source, by=by)
            )
        return _key(answer.key), answer.password

    async def rotate(self, source: str, key_id: str, by: str) -> tuple[SourceKey, str]:
        with translated("security"):
            answer = await self._stub().RotateStreamKey(
                pb.RotateStreamKeyRequest(source=source, id=key_id, by=by)
            )
        return _key(answer.key), answer.password

    async def revoke(self, source: str, key_id: str, by: str) -> SourceKey:
        with translated("security"):
            answer = await self._stub().RevokeStreamKey(
                pb.RevokeStreamKeyRequest(source=source, id=key_id, by=by)
            )
        return _key(answer.key)

    async def page(self, source: str, size: int, token: str) -> tuple[list[SourceKey], str]:
        request = pb.ListStreamKeysRequest(
            source=source, page=common_pb2.PageRequest(size=size, token=token)
        )
        with translated("security"):
            answer = await self._stub().ListStreamKeys(request)
        return [_key(each) for each in answer.keys], answer.next_page_token

    def _stub(self) -> StreamServiceStub:
        return self.peers.stub(StreamServiceStub, "security")


def _key(found: pb.SourceKey) -> SourceKey:
    return SourceKey(
        id=found.id,
        source=found.source,
        topic=found.topic,
        user=found.user,
        revoked=found.revoked,
        at=found.changed.at.ToDatetime(UTC),
        by=found.changed.by,
        cause=found.changed.cause,
    )
