"""Topics of a test's own on a real Kafka, written to and read from without the code under test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient

from libs.common.bus import Bus, Router
from libs.common.events import DatasetVersioned
from libs.common.flow import Topic
from libs.common.kafka import KafkaAccess
from tests.support.topics import make_for

READ_S_MAX = 30.0
Headers = Sequence[tuple[str, bytes | None]]


def topic_of_a_test(*consumers: str, producer: str = "ingest", partitions: int = 2) -> Topic:
    return Topic(
        name=f"test-{uuid4().hex}.v1",
        event=DatasetVersioned,
        producer=producer,
        consumers=consumers,
        key=("tenant", "dataset"),
        retention_ms=3_600_000,
        partitions=partitions,
    )


@asynccontextmanager
async def started(bus: Bus) -> AsyncIterator[Bus]:
    """Its topics are made first: nobody else would."""
    await make_for(bus)
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


@asynccontextmanager
async def sender(bootstrap: str) -> AsyncIterator[Bus]:
    """A bus that only publishes."""
    async with started(Bus(KafkaAccess(bootstrap), Router(f"sender-{uuid4().hex}"))) as bus:
        yield bus


async def write(
    bootstrap: str, topic: str, messages: Sequence[tuple[bytes | None, Headers]]
) -> None:
    """Messages as any client may send them: bodies, headers and all."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, max_request_size=2 * 1024 * 1024
    ) as producer:
        for body, headers in messages:
            await producer.send_and_wait(topic, body, key=b"acme/measurements", headers=headers)


async def read(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    """The first `count` records of a topic; fails when there are fewer in time."""
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    ) as consumer:
        async with asyncio.timeout(READ_S_MAX):
            return [await consumer.getone() for _ in range(count)]


async def count_of(bootstrap: str, topic: str) -> int:
    """How many records a topic holds."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap) as consumer:
        partitions = consumer.assignment()
        assert partitions, f"{topic} has no partitions."
        ends = await consumer.end_offsets(partitions)
        return sum(ends.values())


async def committed_of(bootstrap: str, group: str) -> int:
    """How many records of its partitions a consumer group has acknowledged."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return sum(each.offset for each in offsets.values() if each.offset > 0)


def header(record: ConsumerRecord[bytes, bytes], name: str) -> str:
    return dict(record.headers)[name].decode()
