"""Delivered is not done: what the broker lost of what it acknowledged is published once more.

A log may lose its end to a power cut, and with it events whose outbox rows are gone. The journal
still has them. So each producer of `flow.py` looks every minute whether the histories of its topics
are still those that it looked through last: a topic made anew has another identifier, and no log
loses anything without a change of its leader's epoch. Where one changed, and at the start, it
compares what it published within a day with what is there, and publishes what is missing again,
under the same id: to consumers that had it already it is a repeated event.

One look of the owner heals a row for all of its consumers, whether they ran or not; they need not
know anything of it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from libs.common import flow
from libs.common.clock import SystemClock
from libs.common.consuming import ConfinedConsumer
from libs.common.errors import DependencyError
from libs.common.history import Mended
from libs.common.journal import Publisher
from libs.common.kafka import KafkaAccess
from libs.common.positions import history_of
from libs.common.runtime import Loop
from libs.common.stores.ports import PUBLISHED_KEPT_S, JournalStore, Outgoing

LOOK_S = 60.0
# Records are stamped when they are sent, a moment before they are known to be published.
SLACK_S = 3_600
READ_MS = 1_000
TRIES_MAX = 3
PAGE_ENTRIES = 200

History = tuple[str, tuple[int, ...]]
log = structlog.get_logger(__name__)


class Republishing:
    """A part of the runtime: after the bus, whose topics it looks at."""

    name = "republishing"

    def __init__(
        self,
        service: str,
        store: JournalStore,
        access: KafkaAccess,
        publisher: Publisher,
        topics: tuple[flow.Topic, ...] = flow.TOPICS,
        mended: Mended | None = None,
    ) -> None:
        self._mended = mended or Mended(service, SystemClock())
        self._service = service
        self._store = store
        self._access = access
        self._publisher = publisher
        self.topics = [topic.name for topic in topics if topic.producer == service]
        self._seen: dict[str, History] = {}
        self._loop = Loop(self.name, self._look, LOOK_S)

    async def start(self) -> None:
        if self.topics:
            await self._loop.start()

    async def stop(self) -> None:
        await self._loop.stop()

    async def _look(self) -> None:
        try:
            await self.look()
        except (KafkaError, OSError, DependencyError) as error:
            # That Kafka is away is said by whoever needs it now; it is looked at when it is back.
            log.info("republishing_waits", error=repr(error))

    async def look(self) -> int:
        """Publishes what is missing; the number of events. Raises KafkaError."""
        async with ConfinedConsumer(
            **self._access.for_aiokafka(), client_id=f"{self._service}-republishing"
        ) as consumer:
            return sum([await self._heal(consumer, topic) for topic in self.topics])

    async def _heal(self, consumer: ConfinedConsumer, topic: str) -> int:
        history = await history_of(consumer, topic)
        if self._seen.get(topic) == history:
            return 0
        published = await self._ids(topic)
        missing = published - await _ids_on(consumer, topic) if published else set()
        count = 0
        if missing:
            count = await self._publish(topic, missing)
            log.error("events_lost", topic=topic, published_again=count)
            lost = f"The topic {topic} had lost {count} events; they are published again."
            self._mended.mended("kafka", "lost events", lost)
        self._seen[topic] = history
        return count

    async def _ids(self, topic: str) -> set[str]:
        return {outgoing.event_id async for outgoing in self._events(topic)}

    async def _publish(self, topic: str, missing: set[str]) -> int:
        count = 0
        async for outgoing in self._events(topic):
            if outgoing.event_id in missing:
                missing.discard(outgoing.event_id)
                await self._publish_one(outgoing)
                count += 1
        return count

    async def _publish_one(self, outgoing: Outgoing) -> None:
        for _ in range(TRIES_MAX - 1):
            try:
                return await self._publisher.publish(outgoing)
            except DependencyError as error:
                # A log that lost its end does not know where its producer stood: a new one does.
                log.info("republishing_again", topic=outgoing.topic, error=str(error))
        return await self._publisher.publish(outgoing)

    async def _events(self, topic: str) -> AsyncIterator[Outgoing]:
        after = ""
        while page := await self._store.published(after, PAGE_ENTRIES):
            for published in page:
                for outgoing in published.entry.outbox:
                    if outgoing.topic == topic:
                        yield outgoing
            after = page[-1].place


async def _ids_on(consumer: ConfinedConsumer, topic: str) -> set[str]:
    """The ids of the events that a topic holds, from PUBLISHED_KEPT_S ago on."""
    since_ms = round((time.time() - PUBLISHED_KEPT_S - SLACK_S) * 1_000)
    await consumer._client.set_topics([topic])  # pyright: ignore[reportPrivateUsage]
    numbers = consumer.partitions_for_topic(topic) or set()
    places = [TopicPartition(topic, number) for number in numbers]
    consumer.assign(places)
    ends = await consumer.end_offsets(places)
    begins = await consumer.offsets_for_times(dict.fromkeys(places, since_ms))
    waiting = set[TopicPartition]()
    for place in places:
        begin = begins[place]
        if begin is not None and begin.offset < ends[place]:
            consumer.seek(place, begin.offset)
            waiting.add(place)
        else:
            consumer.pause(place)
    ids: set[str] = set()
    while waiting:
        records = await consumer.getmany(*waiting, timeout_ms=READ_MS, max_records=PAGE_ENTRIES)
        if not records and (troubles := [*consumer.troubles.values()]):
            raise KafkaError(troubles[0])
        for found in records.values():
            for record in found:
                ids.update(value.decode() for name, value in record.headers if name == "ce_id")
        waiting = {each for each in waiting if await consumer.position(each) < ends[each]}
    return ids
