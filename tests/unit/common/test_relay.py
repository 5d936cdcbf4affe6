"""The relay as a running part: woken by appends, patient with a broker that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.common import telemetry
from libs.common.clock import SystemClock
from libs.common.errors import DependencyError
from libs.common.journal import Change, Journal, Relay
from libs.common.stores.ports import Outgoing
from libs.common.stores.sqlite import SqliteJournal
from tests.support.entries import dataset_versioned
from tests.support.eventually import eventually
from tests.support.tracing import Spans


class Broker:
    def __init__(self) -> None:
        self.away = False
        self.away_for = ""
        self.published: list[Outgoing] = []

    async def publish(self, outgoing: Outgoing) -> None:
        await asyncio.sleep(0)
        if self.away or (self.away_for and self.away_for in outgoing.event_id):
            raise DependencyError("Kafka is away.", which="kafka")
        self.published.append(outgoing)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    store = SqliteJournal(tmp_path / "test.db")
    yield store
    await store.close()


@pytest.fixture
def journal(store: SqliteJournal) -> Journal:
    return Journal(store, SystemClock())


async def append(journal: Journal, name: str, version: int = 1) -> None:
    event = dataset_versioned(f"{name}-{version}", version)
    change = Change("DatasetSealed", {}, [event])
    await journal.append(f"acme/dataset/{name}", version - 1, f"cause-{version}", change, "ada")


async def test_an_append_is_published_at_once(journal: Journal, store: SqliteJournal) -> None:
    broker = Broker()
    relay = Relay(journal, broker)
    await relay.start()

    await append(journal, "a")

    await eventually(lambda: [each.event_id for each in broker.published] == ["a-1"])
    await eventually(lambda: _nothing_waits(store))
    await relay.stop()


async def test_what_was_left_before_is_published_at_the_start(
    journal: Journal, store: SqliteJournal
) -> None:
    await append(journal, "a")
    broker = Broker()
    relay = Relay(Journal(store, SystemClock()), broker)

    await relay.start()

    await eventually(lambda: len(broker.published) == 1)
    await relay.stop()


async def test_while_the_broker_is_away_events_wait_and_it_says_so(journal: Journal) -> None:
    broker = Broker()
    broker.away = True
    relay = Relay(journal, broker)
    await relay.start()
    for version in (1, 2, 3):
        await append(journal, "a", version)

    await eventually(lambda: "Kafka is away" in relay.problem)
    broker.away = False

    await eventually(lambda: [each.event_id for each in broker.published] == ["a-1", "a-2", "a-3"])
    await eventually(lambda: relay.problem == "")
    await relay.stop()


async def test_one_aggregate_that_cannot_be_published_does_not_hold_up_others(
    journal: Journal,
) -> None:
    broker = Broker()
    broker.away_for = "a-"
    for version in (1, 2):
        for name in ("a", "b"):
            await append(journal, name, version)

    with pytest.raises(DependencyError):
        await Relay(journal, broker).relay_once()

    assert [each.event_id for each in broker.published] == ["b-1", "b-2"]


async def test_an_event_carries_the_trace_that_caused_it(journal: Journal, spans: Spans) -> None:
    broker = Broker()
    with telemetry.span("upstream"):
        wanted = telemetry.trace_id()
        await append(journal, "a")

    await Relay(journal, broker).relay_once()

    assert broker.published[0].traceparent.split("-")[1] == wanted


async def _nothing_waits(store: SqliteJournal) -> bool:
    return await store.unrelayed() == []
