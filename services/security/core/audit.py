"""What was done, by whom: a chain of records a tenant, each holding the hash of the one before.

docs/reference/audit.md gives the bytes, so that anybody can verify a chain: `basalt audit verify`
does, with code that shares nothing with this. A record is durable when `append` returns.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from libs.common.auditing import DECISIONS, Happening, unwritten
from libs.common.clock import Clock
from libs.common.errors import (
    BasaltError,
    ConflictError,
    DependencyError,
    InvalidInputError,
)
from libs.common.journal import Change, Journal, aggregate
from libs.common.paging import page_size, token_number
from libs.common.stores.ports import Entry

# The hash before the first record.
GENESIS = "0" * 64
KIND = "audit"
# In the hash only where they say something.
LATER = frozenset({"address", "outcome_of"})
TEXT_CHARACTERS_MAX = 512
REQUEST_CHARACTERS_MAX = 16_000
# Races lost to other replicas before the caller is told to come back.
APPEND_ROUNDS_MAX = 5
EXPORT_RECORDS_MAX = 200


class Record(BaseModel):
    """`at` is UTC in RFC 3339 with microseconds: 2026-01-31T08:15:00.000123Z.

    Fields that came later are not in the hash while they are empty, so that old chains hold.
    """

    model_config = ConfigDict(frozen=True)

    tenant: str
    sequence: int
    at: str
    actor: str
    action: str
    resource: str
    decision: str
    request_json: str
    trace_id: str
    # Came later.
    address: str = ""
    outcome_of: int = 0
    previous_hash: str = ""
    hash: str = ""

    def chained(self, previous_hash: str) -> Record:
        digest = hash_of(previous_hash, self)
        return self.model_copy(update={"previous_hash": previous_hash, "hash": digest})


def hash_of(previous_hash: str, record: Record) -> str:
    """Hex SHA-256 of the previous hash, a line feed, and the record's canonical JSON."""
    content = record.model_dump(exclude={"previous_hash", "hash"})
    content = {name: value for name, value in content.items() if value or name not in LATER}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{previous_hash}\n{canonical}".encode()).hexdigest()


def written(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Turns:
    """One after the other. Who waited while the journal was found away hears it at once.

    Each would otherwise find it out after the one before, and nobody within a caller's time.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._failed = 0
        self._why = DependencyError("")

    @asynccontextmanager
    async def mine(self) -> AsyncIterator[None]:
        failed_before = self._failed
        async with self._lock:
            if self._failed > failed_before:
                raise DependencyError(
                    self._why.what, which=self._why.which, next_step=self._why.next_step
                )
            try:
                yield
            except DependencyError as error:
                self._failed, self._why = self._failed + 1, error
                raise


class AuditLog:
    """Appends one at a time in each tenant; replicas that race for a place try again."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._turns: dict[str, _Turns] = {}

    async def append(self, happening: Happening, key: str = "") -> Record:
        """The same `key` again answers the record that it made."""
        if happening.decision not in DECISIONS:
            raise InvalidInputError(
                f"{happening.decision[:64]!r} is no decision.",
                which="decision",
                next_step=f"Use one of: {', '.join(DECISIONS)}.",
            )
        if len(key) > TEXT_CHARACTERS_MAX:
            raise InvalidInputError(
                f"The idempotency key is longer than {TEXT_CHARACTERS_MAX} characters.",
                which="idempotency_key",
            )

        async def decide(latest: Entry | None) -> Change:
            record = self._next(happening, latest)
            return Change("Recorded", record.model_dump())

        cause = key or self._clock.new_id()
        log = log_of(happening.tenant)
        async with self._turns.setdefault(happening.tenant, _Turns()).mine():
            for _ in range(APPEND_ROUNDS_MAX - 1):
                try:
                    entry = await self._journal.decide(log, cause, happening.actor, decide)
                    return Record.model_validate(entry.state)
                except ConflictError:
                    continue
            entry = await self._journal.decide(log, cause, happening.actor, decide)
            return Record.model_validate(entry.state)

    async def before(self, happening: Happening) -> None:
        """For what takes effect only once it is recorded. Raises DependencyError naming audit."""
        try:
            await self.append(happening)
        except BasaltError as error:
            raise unwritten(happening.action, error.what) from error

    def _next(self, happening: Happening, latest: Entry | None) -> Record:
        previous = Record.model_validate(latest.state) if latest is not None else None
        return Record(
            tenant=happening.tenant,
            sequence=previous.sequence + 1 if previous else 1,
            at=written(self._clock.now()),
            # A name that is too long must not keep a refused call out of the log.
            actor=_bounded(happening.actor),
            action=_bounded(happening.action),
            resource=_bounded(happening.resource),
            decision=happening.decision,
            request_json=_bounded(happening.request_json, REQUEST_CHARACTERS_MAX),
            trace_id=_bounded(happening.trace_id),
            address=_bounded(happening.address),
            outcome_of=happening.outcome_of,
        ).chained(previous.hash if previous else GENESIS)

    async def newest(
        self, tenant: str, size: int, token: str, action: str
    ) -> tuple[list[Record], str]:
        """A page, newest first, and the token of the next one ("" after the last)."""
        size = page_size(size)
        latest = await self._journal.latest(log_of(tenant))
        below = token_number(token) if token else (latest.version if latest else 0) + 1
        found: list[Record] = []
        while below > 1 and len(found) < size:
            after = max(0, below - 1 - size)
            page = await self._journal.store.history(log_of(tenant), after, below - 1 - after)
            for entry in reversed(page):
                record = Record.model_validate(entry.state)
                below = record.sequence
                if not action or record.action == action:
                    found.append(record)
                    if len(found) == size:
                        break
        return found, str(below) if below > 1 else ""

    async def part(self, tenant: str, after_sequence: int) -> list[Record]:
        """The next EXPORT_RECORDS_MAX records, oldest first; none after the last."""
        entries = await self._journal.store.history(
            log_of(tenant), after_sequence, EXPORT_RECORDS_MAX
        )
        return [Record.model_validate(entry.state) for entry in entries]


def log_of(tenant: str) -> str:
    return aggregate(tenant, KIND, "log")


def _bounded(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"
