"""What monitoring's core needs from outside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from libs.common.events import PredictionSample, PredictionsServed
from libs.common.history import Happening
from services.monitoring.core.components import Component
from services.monitoring.core.drift import DriftReport, Reference
from services.monitoring.core.serving import Series, Totals
from services.monitoring.core.spans import Span, TraceSummary


class ServingStore(Protocol):
    """What gateways told of predictions: one insert a batch, known by its event's id.

    Batches are kept as long as Kafka keeps their events, so whatever is delivered again is known.
    """

    async def add(self, batch: PredictionsServed) -> bool:
        """Durable when it returns; False when the batch was there already."""
        ...

    async def totals(
        self, tenant: str, model: str = "", since: datetime | None = None
    ) -> dict[Series, Totals]:
        """Sums of the batches that ended after `since`; of every model when `model` is ""."""
        ...

    async def samples(
        self, series: Series, since: datetime | None, rows_max: int
    ) -> list[PredictionSample]:
        """The newest samples of a version, newest first: about `rows_max` rows, at least those."""
        ...

    async def put_report(self, tenant: str, report: DriftReport) -> None: ...

    async def reports(self, tenant: str, model: str) -> list[DriftReport]:
        """The newest report of each version of the model."""
        ...

    async def prune(self, now: datetime) -> None:
        """Deletes what is over the store's bounds."""
        ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class TraceStore(Protocol):
    async def add(self, spans: Sequence[Span]) -> None:
        """They are on the disk shortly after. Raises LimitError when too many wait."""
        ...

    async def spans(self, trace_ids: Sequence[str], limit: int) -> list[Span]:
        """Spans of these traces, oldest first."""
        ...

    async def linked(self, trace_ids: Sequence[str], limit: int) -> set[str]:
        """Traces that these link to, and traces that link to these."""
        ...

    async def newest(
        self, tenant: str | None, before: tuple[int, str] | None, limit: int
    ) -> list[TraceSummary]:
        """Newest first, from the one after `before` (start in µs, trace id).

        Of a tenant: the traces that one of its spans is in. None: all.
        """
        ...


class ReferenceSource(Protocol):
    async def reference(self, series: Series) -> Reference:
        """The training rows that a version is compared with.

        Raises NotFoundError when the version or its reference does not exist, IntegrityError when
        the bytes are not what the manifest says, DependencyError when it cannot be asked.
        """
        ...


class HealthProbe(Protocol):
    async def ask(self, service: str) -> Sequence[Component]:
        """What a service says of itself and its dependencies. Raises BasaltError when it cannot."""
        ...


class History(Protocol):
    """What happened to the platform, by all who write of it."""

    def note(self, happening: Happening) -> None: ...

    def newest(self, count_max: int) -> Sequence[Happening]:
        """Newest first."""
        ...


class Meters(Protocol):
    """Numbers for whoever collects them; kept in this process only."""

    def served(self, batch: PredictionsServed) -> None: ...

    def compared(self, tenant: str, report: DriftReport) -> None: ...

    def components(self, components: Sequence[Component]) -> None: ...

    def spans_refused(self, reason: str, count: int) -> None: ...

    def dead_letter(self, topic: str, consumer: str) -> None: ...
