"""What people should know: kept in order for each tenant, and published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from libs.common import journal, telemetry
from libs.common.clock import Clock
from libs.common.echo import short
from libs.common.events import AlertRaised
from libs.common.journal import Change, Journal
from libs.common.paging import not_a_token, token_number
from libs.common.stores.ports import Entry

Severity = Literal["info", "warning", "critical"]
MESSAGE_CHARACTERS_MAX = 2_000


class Alert(AlertRaised):
    """What is kept of an alert: the event, and the trace in which it was raised."""

    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Alerts:
    """The alerts of a tenant are one aggregate, an entry each; `cause` raises one once."""

    journal: Journal
    clock: Clock

    async def raise_once(
        self, tenant: str, cause: str, severity: Severity, kind: str, subject: str, message: str
    ) -> AlertRaised:
        async def decide(latest: Entry | None) -> Change:
            alert = AlertRaised(
                id=self.clock.new_id(),
                tenant=tenant,
                at=self.clock.now(),
                severity=severity,
                kind=short(kind),
                subject=short(subject),
                message=short(message, MESSAGE_CHARACTERS_MAX),
            )
            kept = Alert(**alert.model_dump(), trace_id=telemetry.trace_id())
            return Change("AlertRaised", kept.model_dump(mode="json"), (alert,))

        entry = await self.journal.decide(_log(tenant), cause, "monitoring", decide)
        return alert_of(entry)

    async def page(self, tenant: str, size: int, token: str) -> tuple[list[Entry], str]:
        """Entries newest first, and the token of the next page ("" at the end)."""
        before = await self._before(tenant, token)
        first = max(before - size, 1)
        found = await self.journal.store.history(_log(tenant), first - 1, before - first)
        entries = [entry for entry in reversed(found) if entry.version < before]
        return entries, str(first) if first > 1 else ""

    async def _before(self, tenant: str, token: str) -> int:
        latest = await self.journal.latest(_log(tenant))
        end = latest.version + 1 if latest else 1
        before = token_number(token) if token else end
        if token and not 1 < before < end:
            raise not_a_token()
        return before


def alert_of(entry: Entry) -> Alert:
    return Alert.model_validate(entry.state)


def _log(tenant: str) -> str:
    return journal.aggregate(tenant, "alerts", "log")
