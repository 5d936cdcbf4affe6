"""Journal entries for tests, and a store that fails or dies where it is told to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from libs.common import flow
from libs.common.errors import DependencyError
from libs.common.events import DatasetVersioned
from libs.common.stores.ports import Entry, JournalStore, Outgoing, Published

T = TypeVar("T")
NOON = datetime(2026, 1, 1, 12, 0, 0, 123457, UTC)


def entry(
    aggregate: str = "acme/dataset/measurements",
    version: int = 1,
    cause: str = "",
    *,
    state: dict[str, Any] | None = None,
    events: int = 0,
    topic: flow.Topic = flow.DATASET_VERSIONED,
    at: datetime = NOON,
) -> Entry:
    return Entry(
        aggregate=aggregate,
        version=version,
        cause=cause or f"cause-{version}",
        type="DatasetSealed",
        state={"rows": version} if state is None else state,
        at=at,
        by="ada",
        outbox=tuple(
            Outgoing(
                event_id=f"{aggregate}/{version}/{number}",
                topic=topic.name,
                key=aggregate,
                payload=dataset_versioned(f"{aggregate}/{version}/{number}").model_dump_json(),
            )
            for number in range(events)
        ),
    )


def dataset_versioned(id_: str, version: int = 1, tenant: str = "acme") -> DatasetVersioned:
    return DatasetVersioned(
        id=id_,
        tenant=tenant,
        at=NOON,
        dataset="measurements",
        version=version,
        manifest_sha256="0" * 64,
        row_count=10,
    )


class Died(BaseException):
    """The process is gone at this point: nobody catches it, nothing after it happens."""


class FaultyStore:
    """A journal store in which the `fault_at`th point fails: before or after the operation.

    Points are counted from 0: point 2n is before operation n, point 2n+1 after it, when the
    operation has taken effect and nobody was told.
    """

    def __init__(
        self, store: JournalStore, fault_at: int, fault: type[BaseException] = Died
    ) -> None:
        self._store = store
        self._fault_at = fault_at
        self._fault = fault
        self._points = 0
        self.struck = False

    async def _with_faults(self, operation: Callable[[], Awaitable[T]]) -> T:
        self._point()
        answer = await operation()
        self._point()
        return answer

    def _point(self) -> None:
        strikes = self._points == self._fault_at
        self._points += 1
        if self.struck and self._fault is Died:
            raise Died("A dead process does nothing.")
        if strikes:
            self.struck = True
            raise self._fault("The store is out of reach.")

    async def insert(self, entry: Entry) -> None:
        await self._with_faults(lambda: self._store.insert(entry))

    async def latest(self, aggregate: str) -> Entry | None:
        return await self._with_faults(lambda: self._store.latest(aggregate))

    async def by_cause(self, aggregate: str, cause: str) -> Entry | None:
        return await self._with_faults(lambda: self._store.by_cause(aggregate, cause))

    async def history(
        self, aggregate: str, after_version: int = 0, limit: int = 500
    ) -> list[Entry]:
        return await self._with_faults(lambda: self._store.history(aggregate, after_version, limit))

    async def heads(
        self, kind: str, tenant: str | None = None, after: str = "", limit: int = 500
    ) -> list[Entry]:
        return await self._with_faults(lambda: self._store.heads(kind, tenant, after, limit))

    async def unrelayed(self, limit: int = 500) -> list[Entry]:
        return await self._with_faults(lambda: self._store.unrelayed(limit))

    async def mark_relayed(self, entries: Sequence[Entry]) -> None:
        await self._with_faults(lambda: self._store.mark_relayed(entries))

    async def published(self, after: str = "", limit: int = 500) -> list[Published]:
        return await self._with_faults(lambda: self._store.published(after, limit))

    async def ping(self) -> None:
        await self._with_faults(self._store.ping)

    async def close(self) -> None:
        """The store belongs to the test."""


class UnreachableError(DependencyError):
    def __init__(self, what: str) -> None:
        super().__init__(what, which="journal")
