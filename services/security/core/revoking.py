"""Revocations in the journal: a row each, in the aggregate of the day on which it is dropped.

    platform/revocation/2026-01-31   entries; each holds the rows that one change added

So a change costs one insert however many revocations there are, a start reads those alone that
have not expired, and nothing has to be rewritten or thrown away. There is no most: what bounds the
rows is what may be issued, by tenant (`api_keys.py`), never whether something may be revoked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from libs.common.clock import Clock
from libs.common.events import AccessChanged
from libs.common.identity import PLATFORM
from libs.common.journal import PAGE_ENTRIES, Change, Journal, aggregate
from libs.common.revocations import CLOCK_SKEW_S, Revocation, in_parts
from libs.common.stores.ports import Entry

KIND = "revocation"
# Of one entry, which has at most 1 MiB; a row takes about 200 bytes.
ROWS_MAX = 2_000
# Days whose rows may still concern a token, whatever the time zone and the clocks say.
DAYS_BEFORE = 1


class Row(BaseModel):
    """As `libs.common.revocations.Revocation` has it."""

    model_config = ConfigDict(frozen=True)

    until: float
    token_id: str = ""
    login_id: str = ""
    subject: str = ""
    generation: int = 0


class RevokedState(BaseModel):
    """What one entry added; those before it in the same aggregate hold as well."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[Row, ...]


@dataclass(slots=True)
class RevocationLog:
    journal: Journal
    clock: Clock
    # Of each day's aggregate, the version up to which it was read.
    _read: dict[str, int] = field(default_factory=dict[str, int])
    _seen: float = 0.0

    async def append(self, revocations: Sequence[Revocation], access_version: int, by: str) -> None:
        """Durable when it returns."""
        by_day: dict[str, list[Revocation]] = {}
        for each in revocations:
            by_day.setdefault(_day_of(each), []).append(each)
        for day, rows in by_day.items():
            for part in in_parts(rows, ROWS_MAX):
                await self._append(day, part, access_version, by)

    async def _append(
        self, day: str, rows: Sequence[Revocation], access_version: int, by: str
    ) -> None:
        state = RevokedState(rows=tuple(Row(**asdict(row)) for row in rows))

        async def decide(latest: Entry | None) -> Change:
            event = AccessChanged(
                id=f"{day}/{latest.version + 1 if latest else 1}",
                tenant=PLATFORM,
                at=self.clock.now(),
                access_version=access_version,
            )
            return Change("TokensRevoked", state.model_dump(), (event,))

        await self.journal.decide(day, self.clock.new_id(), by, decide)

    async def news(self) -> list[Revocation]:
        """What was not read before, this process's own appends too; all there is at first.

        All there is, too, when the clock was set back: what had expired by it, and was forgotten,
        concerns tokens that are taken again.
        """
        now = self.clock.now().timestamp()
        if now + CLOCK_SKEW_S < self._seen:
            self._read.clear()
        self._seen = now
        found: list[Revocation] = []
        for head in await self._heads():
            after = self._read.get(head.aggregate, 0)
            while after < head.version:
                page = await self.journal.store.history(head.aggregate, after, PAGE_ENTRIES)
                for entry in page:
                    rows = RevokedState.model_validate(entry.state).rows
                    found += [Revocation(**row.model_dump()) for row in rows]
                after = page[-1].version
            self._read[head.aggregate] = after
        return found

    async def _heads(self) -> list[Entry]:
        """The latest entry of each day that still counts; there are as many as a key has days."""
        first = self.clock.now() - timedelta(days=DAYS_BEFORE + 1)
        heads: list[Entry] = []
        while True:
            after = heads[-1].aggregate if heads else _day(first)
            page = await self.journal.store.heads(KIND, PLATFORM, after, PAGE_ENTRIES)
            heads += page
            if len(page) < PAGE_ENTRIES:
                return heads


def _day_of(revocation: Revocation) -> str:
    return _day(datetime.fromtimestamp(revocation.until, UTC))


def _day(at: datetime) -> str:
    return aggregate(PLATFORM, KIND, at.strftime("%Y-%m-%d"))
