"""Tells people of what was found in Triton: an event, of which monitoring makes alerts, and audit.

What was found is in the journal first, with the event in its outbox; the audit log is told until it
has it, over restarts as well, by an idempotency key that is the event's id.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime

import structlog

from libs.common import journal
from libs.common.clock import Clock
from libs.common.errors import BasaltError
from libs.common.events import ForeignModelFound
from libs.common.history import Mended
from libs.common.identity import PLATFORM
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry
from services.inference.core import names
from services.inference.ports import Auditor

# Whoever loads strange models again and again must not fill the logs: so many are told a minute,
# of one name one in a minute. Each is unloaded all the same.
TOLD_A_MINUTE_MAX = 20
MINUTE_S = 60.0
WAITING_MAX = 1_000
# A problem of the service's health for this long after it was found.
SHOWN_S = 600.0
NAME_CHARACTERS_MAX = 128

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in Triton that must not be there; `name` is the one that it answers to."""

    name: str
    what: str
    at: datetime


class Alarms:
    def __init__(self, journal: Journal, clock: Clock, auditor: Auditor, mended: Mended) -> None:
        self._mended = mended
        self._journal = journal
        self._clock = clock
        self._auditor = auditor
        self._waiting: deque[tuple[Finding, str]] = deque(maxlen=WAITING_MAX)
        self._unaudited: deque[ForeignModelFound] = deque(maxlen=WAITING_MAX)
        self._told_at: deque[tuple[float, tuple[str, str]]] = deque(maxlen=TOLD_A_MINUTE_MAX)
        self._last: tuple[float, Finding] | None = None
        self._read = False

    @property
    def problem(self) -> str:
        if self._last is None or self._clock.monotonic() - self._last[0] > SHOWN_S:
            return ""
        finding = self._last[1]
        return (
            f"Something that inference did not load was in Triton at {finding.at:%H:%M:%S} UTC"
            " and was taken out. Find out who reaches Triton: `basalt audit list` says what it was."
        )

    def raise_for(self, finding: Finding, *, served: bool) -> None:
        """`served`: the name is one of a tenant's deployed versions, so it concerns them."""
        now = self._clock.monotonic()
        log.error("foreign_model", name=finding.name, what=finding.what, served=served)
        self._last = (now, finding)
        tenant = names.parts_of_internal(finding.name)[0] if served else PLATFORM
        recent = [told for at, told in self._told_at if now - at < MINUTE_S]
        # Whom it concerns is told, whoever was told of the same name before.
        if (told := (tenant, finding.name)) in recent or len(recent) >= TOLD_A_MINUTE_MAX:
            return
        self._told_at.append((now, told))
        self._mended.mended(
            "triton", "foreign model", f"{finding.name} is taken out: {finding.what}"
        )
        self._waiting.append((finding, tenant))

    async def tell(self) -> None:
        """Writes down what waits; what cannot be written yet waits for the next call."""
        try:
            if not self._read:
                for head in await self._journal.heads("finding"):
                    self._unaudited.append(_event(head))
                self._read = True
            while self._waiting:
                self._unaudited.append(await self._write(*self._waiting[0]))
                self._waiting.popleft()
            while self._unaudited:
                await self._auditor.record(self._unaudited[0])
                self._unaudited.popleft()
        except BasaltError as error:
            log.warning("finding_not_told", error=str(error), waiting=len(self._waiting))

    async def _write(self, finding: Finding, tenant: str) -> ForeignModelFound:
        event_id = self._clock.new_id()

        async def found(latest: Entry | None) -> Change:
            event = ForeignModelFound(
                id=event_id,
                tenant=tenant,
                at=finding.at,
                name=finding.name[:NAME_CHARACTERS_MAX],
                what=finding.what,
            )
            return Change("ForeignModelFound", event.model_dump(mode="json"), [event])

        aggregate = journal.aggregate(tenant, "finding", "log")
        entry = await self._journal.decide(aggregate, event_id, names.OWN_BY, found)
        return _event(entry)


def _event(entry: Entry) -> ForeignModelFound:
    return ForeignModelFound.model_validate(entry.state)
