"""Topics on a Kafka that asks nobody who they are, where no security runs to make them."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from libs.common import topics
from libs.common.bus import Bus
from libs.common.topics import TopicSpec, platform_topics
from services.ingest.ports import Stream

ALREADY_EXISTS = 36


async def make(bootstrap: str, specs: Sequence[TopicSpec]) -> None:
    """Those that are missing."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        answer = await admin.create_topics(
            [
                NewTopic(
                    spec.name,
                    num_partitions=spec.partitions,
                    replication_factor=spec.replication,
                    topic_configs=dict(spec.settings),
                )
                for spec in specs
            ]
        )
    finally:
        await admin.close()
    wrong = [each for each in answer.topic_errors if each[1] not in (0, ALREADY_EXISTS)]
    assert not wrong, wrong


async def make_platform_topics(bootstrap: str) -> None:
    await make(bootstrap, platform_topics(replication=1))


async def make_for(bus: Bus) -> None:
    """What a bus of a test reads or writes: `flow.py` does not know all of it."""
    known = {spec.name: spec for spec in platform_topics(replication=1)}
    own = bus.router.topics
    large = {"max.message.bytes": str(topics.DEAD_LETTER_BYTES_MAX)}
    await make(
        bus.access.bootstrap,
        [
            known.get(name) or TopicSpec(name, own[name].partitions if name in own else 1, 1, large)
            for name in sorted({*bus.topics, *own})
        ],
    )


class BareTopics:
    """ingest's topics, made without asking security."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    async def put(self, stream: Stream) -> None:
        await self.ensure([stream])

    async def ensure(self, streams: Sequence[Stream]) -> None:
        await make(
            self._bootstrap,
            [
                topics.upstream_topic(each.tenant, each.source, 1, durable=each.durable)
                for each in streams
            ],
        )
