"""Messages between Kafka and a handler, as they come and as they are buried."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import ConsumerRecord
from faststream.kafka import KafkaMessage

from libs.common.batches import UNREADABLE_BYTES_MAX
from libs.common.echo import short
from libs.common.flow import BURIAL_PREFIX, DEAD_LETTER_SUFFIX
from libs.common.unreadable import HEADER, Unreadable

ERROR_CHARACTERS_MAX = 2_000
# What is kept of a message in its dead letter, beside UNREADABLE_BYTES_MAX of its body.
BURIED_HEADER_CHARACTERS_MAX = 16_000
BURIED_KEY_CHARACTERS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came: for consumers of what has no event type, such as dead letters."""

    topic: str
    partition: int
    offset: int
    key: str
    body: bytes
    headers: Mapping[str, str]

    @property
    def gap(self) -> Unreadable | None:
        """What this stands in for, when it is no message but a part of the log without any."""
        about = self.headers.get(HEADER)
        return None if about is None else Unreadable(*orjson.loads(about))


async def parse(
    record: ConsumerRecord[Any, Any], parse: Callable[[Any], Awaitable[KafkaMessage]]
) -> KafkaMessage:
    """Headers as text, whatever bytes they hold: an unreadable one must not lose a message."""
    # FastStream decodes the headers once more, so it gets clean bytes.
    cleaned = [(key, text.encode()) for key, text in _texts(record)]
    return await parse(dataclasses.replace(record, headers=cleaned))


async def undecoded(message: KafkaMessage) -> bytes:
    return message.body


def delivery_of(message: KafkaMessage) -> Delivery:
    record: Any = message.raw_message
    return Delivery(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=(record.key or b"").decode(errors="replace"),
        body=bytes(message.body),
        headers={key: str(value) for key, value in message.headers.items()},
    )


def _texts(record: ConsumerRecord[Any, Any]) -> list[tuple[str, str]]:
    return [(key, (value or b"").decode(errors="replace")) for key, value in record.headers]


def unburied(topic: str, letter: ConsumerRecord[Any, Any]) -> Delivery:
    """The message of a dead letter, without what was written on it when it was buried."""
    headers = dict(_texts(letter))
    place = (headers.get(f"{BURIAL_PREFIX}{name}", "") for name in ("partition", "offset"))
    partition, offset = (int(text) if text.isdecimal() else 0 for text in place)
    return Delivery(
        topic=topic,
        partition=partition,
        offset=offset,
        key=(letter.key or b"").decode(errors="replace"),
        body=letter.value or b"",
        headers={
            name: each for name, each in headers.items() if not name.startswith(BURIAL_PREFIX)
        },
    )


def buried(delivery: Delivery, consumer: str, tries: int, failure: str) -> Delivery:
    """The dead letter of a message: as much of it as Kafka takes, and why it is one."""
    headers = {
        **_fitting(delivery.headers),
        "basalt-topic": delivery.topic,
        "basalt-partition": str(delivery.partition),
        "basalt-offset": str(delivery.offset),
        "basalt-consumer": consumer,
        "basalt-tries": str(tries),
        "basalt-error": short(failure, ERROR_CHARACTERS_MAX),
    }
    return dataclasses.replace(
        delivery,
        topic=delivery.topic + DEAD_LETTER_SUFFIX,
        key=delivery.key[:BURIED_KEY_CHARACTERS_MAX],
        body=delivery.body[:UNREADABLE_BYTES_MAX],
        headers=headers,
    )


def _fitting(headers: Mapping[str, str]) -> dict[str, str]:
    """Those that a dead letter has room for, without our own."""
    kept: dict[str, str] = {}
    room = BURIED_HEADER_CHARACTERS_MAX
    for name, value in headers.items():
        room -= len(name) + len(value)
        if room >= 0 and name != HEADER:
            kept[name] = value
    return kept
