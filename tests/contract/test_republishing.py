"""Events that the broker acknowledged and lost reach their consumers all the same, for each row."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common import flow
from libs.common.clock import SystemClock
from libs.common.journal import Journal, Relay
from libs.common.kafka import KafkaAccess
from libs.common.republishing import Republishing
from libs.common.settings import SERVICES
from libs.common.stores.ports import Outgoing
from libs.common.stores.sqlite import SqliteJournal
from tests.contract.test_bus import Collector
from tests.support import logs
from tests.support.entries import entry
from tests.support.eventually import eventually
from tests.support.kafka import count_of, started, topic_of_a_test
from tools.servers import Kafka

WITHIN_S = 30.0


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    store = SqliteJournal(tmp_path / "ingest.db")
    yield store
    await store.close()


async def test_what_a_cut_log_lost_is_published_again_and_nothing_else(
    tmp_path: Path, journal: SqliteJournal
) -> None:
    broker = await asyncio.to_thread(Kafka(tmp_path / "kafka").start)
    topic = topic_of_a_test("group", partitions=1)
    try:
        collector = Collector(broker.bootstrap, "group", topic)
        async with started(collector.bus) as bus:
            look = Republishing("ingest", journal, KafkaAccess(broker.bootstrap), bus, (topic,))
            relay = Relay(Journal(journal, SystemClock()), bus)
            for version in range(1, 11):
                await journal.insert(entry(version=version, events=1, topic=topic))
            assert await relay.relay_once() == 10
            await eventually(lambda: len(collector.ids) == 10, within_s=WITHIN_S)
            assert await look.look() == 0
            await asyncio.to_thread(broker.kill)
            logs.cut(broker, topic.name, 4)
            await asyncio.to_thread(broker.start)

            assert await look.look() == 6
            assert await look.look() == 0
            assert await count_of(broker.bootstrap, topic.name) == 10
    finally:
        await asyncio.to_thread(broker.stop)


async def test_an_event_that_never_arrived_is_published_at_the_next_start(
    kafka: Kafka, journal: SqliteJournal
) -> None:
    """As after a power cut: the owner counts it as published, and no log has it."""
    topic, second = topic_of_a_test("group"), topic_of_a_test("group")
    other = topic_of_a_test("group", producer="trainer")
    collector = Collector(kafka.bootstrap, "group", topic)
    lost = [entry(f"acme/{name}/one", events=1, topic=topic) for name in ("first", "second")]
    rest = [entry("acme/third/one", events=1, topic=each) for each in (second, other)]
    rest[1] = dataclasses.replace(rest[1], version=2, cause="another")
    for each in (*lost, *rest):
        await journal.insert(each)
    await journal.mark_relayed([*lost, *rest])
    # The bus makes only the topics that it reads or writes.
    collector.bus.router.topics |= {each.name: each for each in (second, other)}
    async with started(collector.bus) as bus:
        access = KafkaAccess(kafka.bootstrap)

        rows = (topic, second, other)
        assert await Republishing("ingest", journal, access, bus, rows).look() == 3
        wanted = {outgoing.event_id for each in lost for outgoing in each.outbox}
        await eventually(lambda: set(collector.ids) == wanted, within_s=WITHIN_S)
        assert await Republishing("ingest", journal, access, bus, rows).look() == 0


@pytest.mark.parametrize("row", flow.TOPICS, ids=lambda row: row.name)
def test_every_row_is_looked_after_by_its_owner(row: flow.Topic, journal: SqliteJournal) -> None:
    class NoPublisher:
        async def publish(self, outgoing: Outgoing) -> None:
            raise AssertionError(outgoing)

    for service in SERVICES:
        look = Republishing(service, journal, KafkaAccess("127.0.0.1:1"), NoPublisher())
        assert (row.name in look.topics) == (service == row.producer)
