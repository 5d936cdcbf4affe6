"""Dead letters on a real Kafka: their consumer takes them again from where it buried them."""

from __future__ import annotations

import dataclasses
import hashlib
from uuid import uuid4

import pytest

from libs.common.bus import Bus, Router
from libs.common.clock import SystemClock
from libs.common.errors import InvalidInputError
from libs.common.events import DatasetVersioned, LetterReplayed
from libs.common.flow import Topic
from libs.common.kafka import KafkaAccess
from libs.common.stores.ports import Outgoing
from tests.support.entries import dataset_versioned
from tests.support.eventually import eventually
from tests.support.kafka import count_of, header, read, sender, started, topic_of_a_test, write
from tools.servers import Kafka


class Consumer:
    """A service that refuses events until it is mended."""

    def __init__(self, kafka: Kafka) -> None:
        self.name = f"group-{uuid4().hex}"
        self.topic = topic_of_a_test(self.name, partitions=1)
        self.replays = dataclasses.replace(
            topic_of_a_test(self.name, partitions=1), event=LetterReplayed
        )
        self.broken, self.ids = True, list[str]()
        router = Router(self.name)

        @router.subscriber(self.topic)
        async def handle(event: DatasetVersioned) -> None:
            if self.broken:
                raise InvalidInputError("Not yet.")
            self.ids.append(event.id)

        self.bus = Bus(KafkaAccess(kafka.bootstrap), router, self.replays)
        self._bootstrap = kafka.bootstrap

    async def bury(self, id_: str) -> None:
        event = dataset_versioned(id_)
        await publish(self._bootstrap, self.topic, event, "acme/trade")
        await self.buried()

    async def buried(self) -> None:
        await eventually(self._one_is_buried)

    async def _one_is_buried(self) -> bool:
        return await count_of(self._bootstrap, self.topic.dead_letters) == 1

    async def replay(
        self, offset: int = 0, consumer: str = "", topic: str = "", body_sha256: str = ""
    ) -> None:
        asked = LetterReplayed(
            id=uuid4().hex,
            tenant="acme",
            at=SystemClock().now(),
            topic=topic or self.topic.name,
            consumer=consumer or self.name,
            partition=0,
            offset=offset,
            body_sha256=body_sha256,
        )
        await publish(self._bootstrap, self.replays, asked, "acme")


async def publish(
    bootstrap: str, topic: Topic, event: DatasetVersioned | LetterReplayed, key: str
) -> None:
    async with sender(bootstrap) as bus:
        await bus.publish(Outgoing(event.id, topic.name, key, event.model_dump_json(), ""))


@pytest.fixture
def consumer(kafka: Kafka) -> Consumer:
    return Consumer(kafka)


async def test_a_letter_is_handled_by_who_buried_it_and_nobody_publishes_it_again(
    kafka: Kafka, consumer: Consumer
) -> None:
    async with started(consumer.bus):
        await consumer.bury("one")
        consumer.broken = False

        await consumer.replay()

        await eventually(lambda: consumer.ids == ["one"])
    assert await count_of(kafka.bootstrap, consumer.topic.name) == 1
    assert await count_of(kafka.bootstrap, consumer.replays.dead_letters) == 0


async def test_a_letter_named_with_its_digest_is_taken(kafka: Kafka, consumer: Consumer) -> None:
    async with started(consumer.bus):
        await consumer.bury("one")
        (letter,) = await read(kafka.bootstrap, consumer.topic.dead_letters, 1)
        consumer.broken = False

        await consumer.replay(body_sha256=hashlib.sha256(letter.value).hexdigest())

        await eventually(lambda: consumer.ids == ["one"])


async def test_what_fails_again_is_buried_again_as_it_was(kafka: Kafka, consumer: Consumer) -> None:
    async with started(consumer.bus):
        await consumer.bury("one")
        await consumer.replay()
        first, second = await read(kafka.bootstrap, consumer.topic.dead_letters, 2)
    assert (first.key, first.value) == (second.key, second.value)
    for name in ("ce_id", "basalt-topic", "basalt-partition", "basalt-offset", "basalt-consumer"):
        assert header(first, name) == header(second, name)


async def test_bytes_that_are_no_text_come_again_as_they_were(
    kafka: Kafka, consumer: Consumer
) -> None:
    body = b'{"tenant": "acme", "odd": "\xff\xfe'
    async with started(consumer.bus):
        await write(
            kafka.bootstrap, consumer.topic.name, [(body, [("odd", b"\xff"), ("no", None)])]
        )
        await consumer.buried()
        await consumer.replay()
        _, second = await read(kafka.bootstrap, consumer.topic.dead_letters, 2)
    assert second.value == body


GONE = {
    "after the last": {"offset": 7},
    "of a topic that it does not consume": {"topic": "dataset.versioned.v1"},
    "in whose place is another": {"body_sha256": hashlib.sha256(b"another").hexdigest()},
}


@pytest.mark.parametrize("odd", GONE)
async def test_a_letter_that_is_not_there_is_said_and_the_next_is_taken(
    kafka: Kafka, consumer: Consumer, odd: str
) -> None:
    async with started(consumer.bus):
        await consumer.bury("one")
        consumer.broken = False
        await consumer.replay(**GONE[odd])
        (told,) = await read(kafka.bootstrap, consumer.replays.dead_letters, 1)
        await consumer.replay(consumer="another")
        await consumer.replay()
        await eventually(lambda: consumer.ids == ["one"])
    assert "any more" in header(told, "basalt-error")
