"""A story on a journal that may be cut off anywhere, and what must hold when it is told again."""

from __future__ import annotations

from libs.common.clock import SystemClock
from libs.common.journal import Change, Journal, Relay
from libs.common.stores.ports import Entry, JournalStore, Outgoing
from tests.support.entries import Died, dataset_versioned

DATASETS = [f"acme/dataset/{name}" for name in ("a", "b")]
CAUSES = ["first", "second", "third"]


class Broker:
    """Keeps what it acknowledged; dies or fails before or after taking its `fault_at`th event."""

    def __init__(self, fault_at: int = -1, fault: type[BaseException] = Died) -> None:
        self.published: list[Outgoing] = []
        self.struck = False
        self._fault_at = fault_at
        self._fault = fault
        self._points = 0

    async def publish(self, outgoing: Outgoing) -> None:
        self._point()
        self.published.append(outgoing)
        self._point()

    def _point(self) -> None:
        strikes = self._points == self._fault_at
        self._points += 1
        if strikes:
            self.struck = True
            raise self._fault("The broker is out of reach.")


async def seal(journal: Journal, dataset: str, cause: str) -> Entry:
    async def decide(latest: Entry | None) -> Change:
        version = latest.version + 1 if latest else 1
        event = dataset_versioned(f"{dataset}/{version}", version)
        return Change("DatasetSealed", {"sealed": version}, [event])

    return await journal.decide(dataset, cause, "ada", decide)


async def work(journal: Journal, relay: Relay) -> None:
    """What a service does: handles each of its causes, and publishes."""
    for cause in CAUSES:
        for dataset in DATASETS:
            await seal(journal, dataset, cause)
        await relay.relay_once()


async def check(store: JournalStore, published: list[Outgoing]) -> None:
    """Each cause has one effect; each committed event was published, in order, and no other."""
    journal = Journal(store, SystemClock())
    entries = [entry for dataset in DATASETS for entry in await journal.history(dataset)]
    for dataset in DATASETS:
        history = await journal.history(dataset)
        assert [entry.version for entry in history] == [1, 2, 3]
        assert sorted(entry.cause for entry in history) == sorted(CAUSES)
        assert [entry.state["sealed"] for entry in history] == [1, 2, 3]
        firsts = list(dict.fromkeys(each.event_id for each in published))
        of_dataset = [event_id for event_id in firsts if event_id.startswith(dataset)]
        assert of_dataset == [f"{dataset}/{version}" for version in (1, 2, 3)]
    events = {outgoing.event_id for entry in entries for outgoing in entry.outbox}
    assert events == {outgoing.event_id for outgoing in published}
    assert await store.unrelayed() == []
