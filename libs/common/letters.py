"""A consumer's own dead letters, read again from where it buried them.

So whoever asks for a replay names a place, and no body: what is handled again is what its consumer
itself could not handle, as only a topic's consumers write to its dead letters.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from libs.common.consuming import ConfinedConsumer
from libs.common.deliveries import Delivery, unburied
from libs.common.errors import DependencyError, InvalidInputError
from libs.common.flow import DEAD_LETTER_SUFFIX
from libs.common.kafka import KafkaAccess
from libs.common.publishing import stopped

READ_S_MAX = 10.0


async def letter_at(
    access: KafkaAccess, topic: str, partition: int, offset: int, body_sha256: str
) -> Delivery:
    """The message that was buried there, as its consumer got it.

    Raises InvalidInputError when it, or one with that digest ("" for any), is not there any more,
    DependencyError while Kafka is away.
    """
    place = TopicPartition(topic + DEAD_LETTER_SUFFIX, partition)
    try:
        async with asyncio.timeout(READ_S_MAX):
            record = await _record_at(access, place, offset)
    except (KafkaError, OSError, TimeoutError) as error:
        raise DependencyError(
            f"The dead letter {offset} of {topic} cannot be read.",
            which="kafka",
            next_step="It is tried again; `basalt status` shows what is wrong.",
            inside=repr(error),
        ) from error
    if record is None or not _is_meant(record, body_sha256):
        raise InvalidInputError(
            f"The dead letter {partition}/{offset} of {topic} is not on Kafka any more.",
            which=topic,
            next_step="Let its producer, or the upstream system, send it again.",
        )
    return unburied(topic, record)


def _is_meant(record: ConsumerRecord[Any, Any], body_sha256: str) -> bool:
    """False for another letter, which took its place after Kafka lost the tail of the log."""
    return body_sha256 in ("", hashlib.sha256(record.value or b"").hexdigest())


async def _record_at(
    access: KafkaAccess, place: TopicPartition, offset: int
) -> ConsumerRecord[Any, Any] | None:
    consumer = ConfinedConsumer(**access.for_aiokafka(), enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([place])
        begin = (await consumer.beginning_offsets([place]))[place]
        end = (await consumer.end_offsets([place]))[place]
        if not begin <= offset < end:
            return None
        consumer.seek(place, offset)
        record = await consumer.getone(place)
        return record if record.offset == offset else None
    finally:
        await stopped(consumer.stop())
