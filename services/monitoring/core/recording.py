"""Takes in what gateways served, answers for it, and speaks up when serving goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from libs.common.clock import Clock
from libs.common.errors import InvalidInputError
from libs.common.events import PredictionsServed
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.serving import Series, ServingFigures, checked, figures
from services.monitoring.core.watch import DriftWatch

if TYPE_CHECKING:
    from services.monitoring.ports import Meters, ServingStore

WINDOW_S_MAX = 7 * 24 * 3_600
# An alert is worth raising when this part of at least so many requests of five minutes failed.
FAULTS_WINDOW_S = 300
FAULT_RATE_MAX = 0.05
FAULTS_MIN = 10
# The product promises an answer within one second.
LATENCY_MS_P99_MAX = 1_000.0
LATENCY_REQUESTS_MIN = 100


@dataclass(frozen=True, slots=True)
class Recording:
    store: ServingStore
    meters: Meters
    watch: DriftWatch
    alerts: Alerts
    clock: Clock

    async def take(self, batch: PredictionsServed) -> None:
        """Counts a batch once, however often it is delivered."""
        if await self.store.add(checked(batch)):
            self.meters.served(batch)
            if sum(batch.errors_by_code.values()) or any(batch.latency_ms_counts[-4:]):
                await self._look(Series.of(batch))
        # Even of a batch that was known: the process may have ended before it was compared.
        if batch.samples:
            self.watch.served(Series.of(batch))

    async def figures(self, tenant: str, model: str, window_s: int) -> list[ServingFigures]:
        """By model and version. `window_s` 0: everything kept."""
        if not 0 <= window_s <= WINDOW_S_MAX:
            raise InvalidInputError(
                f"A window of {window_s} s cannot be answered.",
                which="window_s",
                next_step=f"Ask for 1 to {WINDOW_S_MAX} seconds, or 0 for everything kept.",
            )
        now = self.clock.now()
        since = now - timedelta(seconds=window_s) if window_s else None
        totals = await self.store.totals(tenant, model, since)
        return [figures(series, totals[series], now, window_s) for series in sorted(totals)]

    async def _look(self, series: Series) -> None:
        """Raises an alert for a version whose answers fail or come late, at most one an hour."""
        now = self.clock.now()
        since = now - timedelta(seconds=FAULTS_WINDOW_S)
        totals = await self.store.totals(series.tenant, series.model, since)
        if series not in totals:
            return
        recent = totals[series]
        subject, hour = f"{series.model}/{series.version}", f"{now:%Y-%m-%dT%H}"
        if recent.faults >= FAULTS_MIN and recent.faults > FAULT_RATE_MAX * recent.requests:
            await self.alerts.raise_once(
                series.tenant,
                f"faults/{subject}/{hour}",
                "critical",
                "serving.faults",
                subject,
                f"{recent.faults} of {recent.requests} predictions failed in"
                f" {FAULTS_WINDOW_S // 60} minutes: {recent.errors_by_code}. See `basalt status`.",
            )
        p99 = figures(series, recent, now).latency_ms_p99
        if p99 > LATENCY_MS_P99_MAX and sum(recent.latency_ms_counts) >= LATENCY_REQUESTS_MIN:
            await self.alerts.raise_once(
                series.tenant,
                f"slow/{subject}/{hour}",
                "warning",
                "serving.slow",
                subject,
                f"One prediction in a hundred took more than {p99:,.0f} ms in the last"
                f" {FAULTS_WINDOW_S // 60} minutes; {LATENCY_MS_P99_MAX:,.0f} ms are promised.",
            )
