"""The bus on logs that are damaged, cut, or hold what nobody can read."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from libs.common.batches import UNREADABLE_BYTES_MAX
from libs.common.bus import Bus, Delivery, Router
from libs.common.flow import Topic
from libs.common.kafka import KafkaAccess
from tests.contract.test_bus import Collector, outgoing
from tests.support import logs
from tests.support.batches import ATTRIBUTES, batch, put, with_wild_header
from tests.support.entries import dataset_versioned
from tests.support.eventually import eventually
from tests.support.kafka import header, read, sender, started, topic_of_a_test
from tests.support.topics import make_for
from tools.servers import Kafka

WITHIN_S = 30.0


@pytest.fixture
def topic() -> Topic:
    return topic_of_a_test(f"group-{uuid4().hex}", partitions=1)


def event(name: str) -> bytes:
    return dataset_versioned(name).model_dump_json().encode()


async def test_what_cannot_be_read_is_buried_and_the_rest_arrives(
    kafka: Kafka, topic: Topic
) -> None:
    collector = Collector(kafka.bootstrap, topic.consumers[0], topic)
    bomb = batch([bytes(70 * 1024 * 1024)], "zstd")
    wild = with_wild_header([event("two"), event("wild"), event("three")], [], wild=1)
    async with started(collector.bus):
        await put(kafka.bootstrap, topic.name, batch([event("one")], "lz4"))
        await put(kafka.bootstrap, topic.name, bomb)
        await eventually(
            lambda: f"{topic.name}/0 cannot be read at offset 1" in _problem(collector)
        )
        await put(kafka.bootstrap, topic.name, wild)

        await eventually(lambda: collector.ids == ["one", "two", "three"], within_s=WITHIN_S)
        await eventually(lambda: _problem(collector) == "")

    letters = await read(kafka.bootstrap, topic.dead_letters, 2)
    assert [header(each, "basalt-offset") for each in letters] == ["1", "3"]
    # Kafka writes the offset into a batch's header; the rest is as it was sent.
    assert (letters[0].value or b"")[ATTRIBUTES:] == bomb[ATTRIBUTES:]
    assert "when decompressed" in header(letters[0], "basalt-error")
    assert "not UTF-8" in header(letters[1], "basalt-error")


def _problem(collector: Collector) -> str:
    return collector.bus.problem


async def test_a_large_record_that_is_refused_is_buried_as_far_as_it_fits(
    kafka: Kafka, topic: Topic
) -> None:
    collector = Collector(kafka.bootstrap, topic.consumers[0], topic)
    async with started(collector.bus):
        large = batch([b"x" * 3 * 1024 * 1024], "gzip", headers=[("h", b"y" * 200_000)])
        await put(kafka.bootstrap, topic.name, large)
        await put(kafka.bootstrap, topic.name, batch([event("one")]))
        await eventually(lambda: collector.ids == ["one"], within_s=WITHIN_S)

    (letter,) = await read(kafka.bootstrap, topic.dead_letters, 1)
    assert len(letter.value or b"") == UNREADABLE_BYTES_MAX


async def test_a_dead_letter_that_cannot_be_read_is_taken_in_with_its_reason(
    kafka: Kafka, topic: Topic
) -> None:
    router = Router(topic.consumers[0])
    seen: list[Delivery] = []

    async def take(delivery: Delivery) -> None:
        seen.append(delivery)

    router.handlers[topic.dead_letters] = take

    async with started(Bus(KafkaAccess(kafka.bootstrap), router)):
        await put(kafka.bootstrap, topic.dead_letters, batch([bytes(70 * 1024 * 1024)], "zstd"))
        await put(kafka.bootstrap, topic.dead_letters, batch([b"next"]))
        await eventually(lambda: len(seen) == 2, within_s=WITHIN_S)

    assert "cannot be read" in seen[0].headers["basalt-error"]
    assert seen[1].body == b"next"


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
async def test_events_after_a_log_lost_its_end_all_arrive(
    tmp_path: Path, topic: Topic, running: bool
) -> None:
    """It grows again past the consumer's offset: read on from there, three would be skipped."""
    broker = await asyncio.to_thread(Kafka(tmp_path).start)
    try:
        collector = Collector(broker.bootstrap, topic.consumers[0], topic)
        await make_for(collector.bus)
        await collector.bus.start()
        await _publish(broker.bootstrap, topic, range(10))
        await eventually(lambda: len(collector.ids) == 10, within_s=WITHIN_S)
        if not running:
            await collector.bus.stop()
        await asyncio.to_thread(broker.kill)
        logs.cut(broker, topic.name, 7)
        await asyncio.to_thread(broker.start)
        await _publish(broker.bootstrap, topic, range(10, 22))
        if not running:
            collector = Collector(broker.bootstrap, topic.consumers[0], topic)
            await collector.bus.start()

        wanted = {f"event-{number}" for number in range(10, 22)}
        await eventually(lambda: wanted <= set(collector.ids), within_s=WITHIN_S)
        # Only what is new was delivered: nothing that was handled before comes again.
        assert not running or len(collector.ids) == 22
        await collector.bus.stop()
    finally:
        await asyncio.to_thread(broker.stop)


async def _publish(bootstrap: str, topic: Topic, numbers: range) -> None:
    async with sender(bootstrap) as bus:
        for number in numbers:
            await bus.publish(outgoing(topic, dataset_versioned(f"event-{number}")))
