"""A process dies, or its store fails, at every point of its work; nothing is lost or doubled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.journal import Journal, Relay
from libs.common.stores.sqlite import SqliteJournal
from tests.support.crashes import DATASETS, Broker, check, seal, work
from tests.support.entries import Died, FaultyStore, UnreachableError

# Points of the store and of the broker that a whole run passes; the test checks that they suffice.
POINTS = range(80)


@pytest.mark.parametrize("fault", [Died, UnreachableError])
@pytest.mark.parametrize("where", ["store", "broker"])
async def test_whatever_fails_at_any_point(
    tmp_path: Path, fault: type[BaseException], where: str
) -> None:
    struck = 0
    for point in POINTS:
        store = SqliteJournal(tmp_path / f"{point}.db")
        faulty = FaultyStore(store, point if where == "store" else -1, fault)
        broker = Broker(point if where == "broker" else -1, fault)
        journal = Journal(faulty, SystemClock())
        try:
            await work(journal, Relay(journal, broker))
        except (Died, UnreachableError):
            struck += 1
        # The next process begins with the file as it was left; every cause is delivered again.
        again = Journal(store, SystemClock())
        await work(again, Relay(again, successor := Broker()))

        await check(store, broker.published + successor.published)
        await store.close()

    assert 10 < struck < len(POINTS), "The points must cover the whole run."


async def test_an_insert_whose_caller_is_cancelled_is_whole_or_not_there(tmp_path: Path) -> None:
    """The caller goes away at each turn of the event loop while its decision commits."""
    for turns in range(12):
        store = SqliteJournal(tmp_path / f"{turns}.db")
        journal = Journal(store, SystemClock())
        deciding = asyncio.create_task(seal(journal, DATASETS[0], "first"))
        for _ in range(turns):
            await asyncio.sleep(0)
        deciding.cancel()
        await asyncio.gather(deciding, return_exceptions=True)

        entry = await seal(journal, DATASETS[0], "first")

        assert await journal.history(DATASETS[0]) == [entry]
        assert await store.unrelayed() == [entry]
        await store.close()


async def test_two_relays_publish_everything_in_order(tmp_path: Path) -> None:
    store = SqliteJournal(tmp_path / "test.db")
    journal = Journal(store, SystemClock())
    broker = Broker()
    relays = [Relay(journal, broker) for _ in range(2)]

    async def write(dataset: str) -> None:
        for number in range(40):
            await seal(journal, dataset, f"cause-{number}")

    async def relay(each: Relay) -> None:
        while len({outgoing.event_id for outgoing in broker.published}) < 80:
            await each.relay_once()

    await asyncio.gather(*map(write, DATASETS), *map(relay, relays))
    while await relays[0].relay_once():
        pass

    firsts = list(dict.fromkeys(outgoing.event_id for outgoing in broker.published))
    for dataset in DATASETS:
        wanted = [f"{dataset}/{version}" for version in range(1, 41)]
        assert [each for each in firsts if each.startswith(f"{dataset}/")] == wanted
    await store.close()
