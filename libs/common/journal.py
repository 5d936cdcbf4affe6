"""State that survives: appended, never updated; inbox and outbox in the same insert.

    commit    inserting version v+1 of an aggregate; who collides reads again and decides again
    inbox     a cause (an event's id, an idempotency key) has its effect once in each aggregate
    outbox    the events of an entry; the relay publishes them until the broker has them all
    claim     a version: a worker takes work by appending, and a zombie's next append collides

Publication is at least once, the effect of a cause exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakValueDictionary

import structlog

from libs.common import flow, telemetry
from libs.common.clock import Clock
from libs.common.errors import ConflictError, InvalidInputError
from libs.common.events import Event
from libs.common.identity import call_cause
from libs.common.runtime import ended, lasting
from libs.common.stores.encoding import plain
from libs.common.stores.ports import (
    EVENT_BYTES_MAX,
    CauseSeenError,
    Entry,
    JournalStore,
    Outgoing,
    VersionTakenError,
)

# After this many lost races on one aggregate the caller is told to come back.
DECIDE_TRIES_MAX = 12
# A lost race waits up to this long, times its number, so that replicas do not race in step.
LOST_RACE_S_MAX = 0.01
# Decisions of one process on one aggregate take turns; a turn is not waited for any longer.
TURN_S_MAX = 2.0
PAGE_ENTRIES = 500
# How often the relay looks for entries that it was not told of: another process's, or from before.
RESCAN_S = 5.0
RELAY_BATCH_MAX = 500
# Publishing that fails is tried again after this long, twice as long each time, up to the most.
RELAY_BACKOFF_S = 0.2
RELAY_BACKOFF_S_MAX = 10.0

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")
log = structlog.get_logger(__name__)


def aggregate(tenant: str, kind: str, *names: str) -> str:
    """The identifier of an aggregate; InvalidInputError for a part that could be mistaken."""
    for part in (tenant, kind, *names):
        if not _NAME.fullmatch(part):
            raise InvalidInputError(
                f"{part!r} is not a name.",
                which=part,
                next_step="Use 1 to 128 letters, digits, dots, dashes, colons or underscores.",
            )
    return "/".join((tenant, kind, *names))


@dataclass(frozen=True, slots=True)
class Change:
    """What a decision wants to become true. `type` names it in the past tense: JobClaimed."""

    type: str
    state: Mapping[str, Any]
    events: Sequence[Event] = field(default=())


Decide = Callable[[Entry | None], Awaitable[Change | None]]


class Journal:
    """A service's own journal. `by` in its entries is who caused them: subject or service."""

    def __init__(self, store: JournalStore, clock: Clock) -> None:
        self.store = store
        self._clock = clock
        self._listeners: list[Callable[[Entry], None]] = []
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Calls `listener` with each entry that this process appends; it must not block."""
        self._listeners.append(listener)

    async def append(
        self, aggregate: str, after_version: int, cause: str, change: Change, by: str
    ) -> Entry:
        """Inserts version `after_version` + 1.

        Raises VersionTakenError when somebody was first, CauseSeenError when it is done already.
        """
        entry = Entry(
            aggregate=aggregate,
            version=after_version + 1,
            cause=cause,
            type=change.type,
            # As it will be read back, so that a first answer and a repeated one are the same.
            state=plain(change.state),
            at=self._clock.now(),
            by=by,
            outbox=tuple(_outgoing(event) for event in change.events),
        )
        await self.store.insert(entry)
        for listener in self._listeners:
            listener(entry)
        return entry

    def this_call(self) -> str:
        """The cause that a repeat of the call that is being handled has as well.

        A decision whose entry has another cause found its effect there already.
        """
        return call_cause() or self._clock.new_id()

    async def decide(self, aggregate: str, cause: str | None, by: str, decide: Decide) -> Entry:
        """Makes one decision take effect once, whoever races for it.

        `decide` gets the latest entry (None: nothing yet) and answers the change, or None to leave
        everything as it is. It may run several times and must change nothing by itself. A cause
        seen before is answered with the entry it made; None stands for the call that is being
        handled, so that a caller who repeats it (same idempotency key) has its effect once.
        Raises ConflictError after too many races, and whatever `decide` raises.
        """
        cause = cause or self.this_call()
        async with self._turn(aggregate):
            for lost_races in range(DECIDE_TRIES_MAX):
                try:
                    return await self._decide_once(aggregate, cause, by, decide)
                except CauseSeenError as seen_meanwhile:
                    return seen_meanwhile.entry
                except VersionTakenError:
                    await asyncio.sleep(random.uniform(0, LOST_RACE_S_MAX * (lost_races + 1)))  # noqa: S311 - no secret.
        raise ConflictError(
            f"{aggregate} changed {DECIDE_TRIES_MAX} times while this call tried to change it.",
            which=aggregate,
            next_step="Try again.",
        )

    async def _decide_once(self, aggregate: str, cause: str, by: str, decide: Decide) -> Entry:
        seen = await self.store.by_cause(aggregate, cause)
        if seen is not None:
            return seen
        latest = await self.store.latest(aggregate)
        change = await decide(latest)
        if change is None:
            if latest is None:
                raise ValueError(f"{aggregate} has no entry and the decision made none.")
            return latest
        return await self.append(aggregate, latest.version if latest else 0, cause, change, by)

    @asynccontextmanager
    async def _turn(self, aggregate: str) -> AsyncIterator[None]:
        """A courtesy that spares lost races; who is right is decided by the insert alone."""
        lock = self._turns.setdefault(aggregate, asyncio.Lock())
        taken = not lock.locked() and await lock.acquire()
        if not taken:
            with contextlib.suppress(TimeoutError):
                # wait_for of Python 3.11 may lose a cancellation.
                async with asyncio.timeout(TURN_S_MAX):
                    taken = await lock.acquire()
        try:
            yield
        finally:
            if taken:
                lock.release()

    async def latest(self, aggregate: str) -> Entry | None:
        return await self.store.latest(aggregate)

    async def history(self, aggregate: str) -> list[Entry]:
        """Every entry, oldest first."""
        entries: list[Entry] = []
        while True:
            page = await self.store.history(aggregate, len(entries), PAGE_ENTRIES)
            entries += page
            if len(page) < PAGE_ENTRIES:
                return entries

    async def heads(self, kind: str, tenant: str | None = None) -> list[Entry]:
        """The latest entry of every aggregate of a kind."""
        entries: list[Entry] = []
        while True:
            after = entries[-1].aggregate if entries else ""
            page = await self.store.heads(kind, tenant, after, PAGE_ENTRIES)
            entries += page
            if len(page) < PAGE_ENTRIES:
                return entries


def _outgoing(event: Event) -> Outgoing:
    topic = flow.BY_EVENT[type(event)]
    payload = event.model_dump_json()
    if len(payload.encode()) > EVENT_BYTES_MAX:
        # Kafka would refuse it for ever, and the aggregate's later events would wait behind it.
        raise InvalidInputError(
            f"An event of {len(payload.encode())} bytes is over {EVENT_BYTES_MAX}.",
            which=topic.name,
            next_step="Keep what is large as an object and name it in the event.",
        )
    return Outgoing(
        event_id=event.id,
        topic=topic.name,
        key=topic.key_of(event),
        payload=payload,
        traceparent=telemetry.traceparent(),
    )


class Publisher(Protocol):
    async def publish(self, outgoing: Outgoing) -> None:
        """Returns when the broker has it durably; raises when that is not known."""
        ...


class Relay:
    """Publishes outboxes: the events of an aggregate in the order of its versions.

    An error means "unknown", so the event goes out again: consumers know it by its id. Two relays
    on one journal publish twice at the worst.
    """

    name = "relay"

    def __init__(self, journal: Journal, publisher: Publisher) -> None:
        self._store = journal.store
        self._publisher = publisher
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.problem = ""
        journal.listen(self._notice)

    def _notice(self, entry: Entry) -> None:
        if entry.outbox:
            self._wake.set()

    async def start(self) -> None:
        self._wake.set()
        self._task = lasting(self._run(), "relay")

    async def stop(self) -> None:
        await ended(self._task)

    async def _run(self) -> None:
        backoff_s = RELAY_BACKOFF_S
        while True:
            with contextlib.suppress(TimeoutError):
                # wait_for of Python 3.11 may lose a cancellation.
                async with asyncio.timeout(RESCAN_S):
                    await self._wake.wait()
            self._wake.clear()
            try:
                while await self.relay_once():
                    pass
                backoff_s, self.problem = RELAY_BACKOFF_S, ""
            except Exception as error:
                self.problem = f"Events wait in the outbox: {error}"
                log.warning("relay_failed", error=str(error), again_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, RELAY_BACKOFF_S_MAX)
                self._wake.set()

    async def relay_once(self) -> int:
        """Publishes a batch of waiting entries; the number of them."""
        entries = await self._store.unrelayed(RELAY_BATCH_MAX)
        by_aggregate: dict[str, list[Entry]] = {}
        for entry in entries:
            by_aggregate.setdefault(entry.aggregate, []).append(entry)
        outcomes = await asyncio.gather(
            *(self._publish(group) for group in by_aggregate.values()), return_exceptions=True
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return len(entries)

    async def _publish(self, entries: list[Entry]) -> None:
        published: list[Entry] = []
        try:
            for entry in sorted(entries, key=lambda entry: entry.version):
                for outgoing in entry.outbox:
                    await self._publisher.publish(outgoing)
                published.append(entry)
        finally:
            if published:
                await self._store.mark_relayed(published)
