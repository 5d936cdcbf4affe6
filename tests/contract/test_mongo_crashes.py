"""The Mongo journal writes an entry in two steps; a process may die between any two of them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from libs.common.clock import SystemClock
from libs.common.journal import Journal, Relay
from libs.common.stores.mongo import MongoJournal
from libs.common.stores.ports import CauseSeenError, VersionTakenError
from tests.support.crashes import Broker, check, work
from tests.support.entries import Died, entry
from tools.servers import FerretDB

pytestmark = pytest.mark.real

WRITES = {"insert_one", "insert_many", "delete_one", "delete_many"}
# A whole run makes 6 entries with a pointer each and deletes the 6, and keeps 6 notes of what was
# published and forgets old ones as often: before and after each of them.
POINTS = range(70)


class FaultyCollection:
    """A collection whose owner dies before or after a write, and does nothing from then on."""

    def __init__(self, collection: Any, faults: Faults) -> None:
        self._collection = collection
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        self._faults.check()
        operation = getattr(self._collection, name)
        if name not in WRITES:
            return operation

        async def write(*arguments: Any) -> Any:
            self._faults.point()
            answer = await operation(*arguments)
            self._faults.point()
            return answer

        return write


class Faults:
    def __init__(self, fault_at: int) -> None:
        self._left = fault_at
        self.struck = False

    def check(self) -> None:
        if self.struck:
            raise Died("A dead process does nothing.")

    def point(self) -> None:
        self.struck = self.struck or self._left == 0
        self._left -= 1
        self.check()


async def dying_journal(address: str, fault_at: int) -> tuple[MongoJournal, Faults]:
    store = MongoJournal(address, "ingest")
    await store.ping()
    faults = Faults(fault_at)
    opened = store._collections._opened
    opened.update({name: FaultyCollection(each, faults) for name, each in opened.items()})
    return store, faults


async def test_wherever_a_process_dies_nothing_is_lost_or_doubled(ferretdb: FerretDB) -> None:
    struck = 0
    for point in POINTS:
        address = f"{ferretdb.url}crash_{uuid4().hex}"
        dying, faults = await dying_journal(address, point)
        broker, successor = Broker(), Broker()
        journal = Journal(dying, SystemClock())
        try:
            await work(journal, Relay(journal, broker))
        except Died:
            struck += faults.struck
        store = MongoJournal(address, "ingest")
        again = Journal(store, SystemClock())
        await work(again, Relay(again, successor))

        await check(store, broker.published + successor.published)
        await dying.close()
        await store.close()

    assert 20 < struck < len(POINTS), "The points must cover the whole run."


async def test_a_pointer_waits_for_a_writer_that_was_only_slow(ferretdb: FerretDB) -> None:
    """It stalls between pointer and entry for as long as it likes; others relay meanwhile."""
    address = f"{ferretdb.url}slow_{uuid4().hex}"
    store, slow = MongoJournal(address, "ingest"), MongoJournal(address, "ingest")
    await slow.ping()
    late = entry(events=1)
    await slow._point_to(late)

    assert await store.unrelayed() == []
    await slow._journal.insert_one(await _document(store, late))

    assert await store.unrelayed() == [late]
    await store.close()
    await slow.close()


@pytest.mark.parametrize("rival", [entry(cause="rival"), entry(version=2)])
async def test_a_pointer_to_what_can_never_come_is_cleared(ferretdb: FerretDB, rival) -> None:
    """Its version was taken by another cause, or its cause had its effect in another version."""
    store = MongoJournal(f"{ferretdb.url}never_{uuid4().hex}", "ingest")
    await store.ping()
    dead = entry(version=1, cause="cause-2" if rival.version == 2 else "dead", events=1)
    await store._point_to(dead)
    await store.insert(rival)

    assert await store.unrelayed() == []

    assert await store._outbox.count_documents({}) == 0
    with pytest.raises((VersionTakenError, CauseSeenError)):
        await store.insert(dead)
    assert await store.unrelayed() == []
    await store.close()


async def test_the_outbox_holds_what_waits_and_not_what_was(ferretdb: FerretDB) -> None:
    """The relay's reads do not grow with the journal's age."""
    store = MongoJournal(f"{ferretdb.url}old_{uuid4().hex}", "ingest")
    journal = Journal(store, SystemClock())
    relay = Relay(journal, Broker())

    for _ in range(2):
        await work(journal, relay)

    assert await store._journal.count_documents({}) == 6
    assert await store._outbox.count_documents({}) == 0
    await store.close()


async def _document(store: MongoJournal, wanted: Any) -> dict[str, Any]:
    """What inserting `wanted` would write, taken from an insert under another name."""
    twin = entry("acme/dataset/twin", wanted.version, wanted.cause, events=len(wanted.outbox))
    await store.insert(twin)
    document = await store._journal.find_one({"_id": twin.id})
    await store.mark_relayed([twin])
    outbox = document["outbox"].replace(twin.aggregate, wanted.aggregate)
    return {**document, "_id": wanted.id, "aggregate": wanted.aggregate, "outbox": outbox}
