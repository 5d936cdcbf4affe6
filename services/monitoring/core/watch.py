"""Watches the versions in service: compares, tells once when one drifts, and when it recovered.

    watch   "<tenant>/watch/<model>"   which versions serve, and since when
    drift   "<tenant>/drift/<model>"   the episodes that are open: one a drifting version

Which batch belongs where is decided by the deployment: rows from before a version went into
service are not its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from libs.common import journal, telemetry
from libs.common.clock import Clock
from libs.common.errors import BasaltError, NotFoundError
from libs.common.events import (
    DeploymentChanged,
    DriftDetected,
    DriftedFeature,
    PredictionSample,
)
from libs.common.identity import acting_for
from libs.common.journal import Change, Journal
from libs.common.stores.ports import Entry
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.drift import DriftLimits, DriftReport, live_columns
from services.monitoring.core.serving import Series

if TYPE_CHECKING:
    from services.monitoring.ports import Meters, ReferenceSource, ServingStore

SELF = "monitoring"
# So many features are named in an event or alert; the report has them all.
FEATURES_NAMED_MAX = 200
FEATURES_TOLD_MAX = 5


class NotedVariant(BaseModel):
    model_config = ConfigDict(frozen=True)

    weight: int
    since: datetime


class Watched(BaseModel):
    """The state of a watch: the variants of a deployment's revision, by version."""

    model_config = ConfigDict(frozen=True)

    revision: int
    variants: dict[int, NotedVariant]


class OpenEpisode(BaseModel):
    model_config = ConfigDict(frozen=True)

    event_id: str
    trace_id: str
    since: str


class Drifting(BaseModel):
    """The state of a model's drift: the open episodes, by version."""

    model_config = ConfigDict(frozen=True)

    episodes: dict[int, OpenEpisode]


@dataclass(frozen=True, slots=True)
class Serving:
    """A version in service: its part of the traffic in percent, and since when it has any."""

    version: int
    weight: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Episode:
    """A drift that was raised and is not over."""

    version: int
    event_id: str
    trace_id: str
    since: str


@dataclass(frozen=True, slots=True)
class DriftAnswer:
    report: DriftReport
    episode: Episode | None


class DriftWatch:
    def __init__(
        self,
        *,
        journal: Journal,
        serving: ServingStore,
        references: ReferenceSource,
        meters: Meters,
        alerts: Alerts,
        clock: Clock,
        limits: DriftLimits,
    ) -> None:
        self._journal = journal
        self._serving = serving
        self._references = references
        self._meters = meters
        self._alerts = alerts
        self._clock = clock
        self._limits = limits
        self._changed: set[Series] = set()
        self._resumed = False

    # What happened.

    async def deployed(self, event: DeploymentChanged) -> None:
        """Takes note of what serves now. The versions that serve on keep their beginning."""

        async def decide(latest: Entry | None) -> Change | None:
            if latest is not None and _watched(latest).revision >= event.revision:
                return None  # Delivered again, or late.
            before = {each.version: each for each in _versions(latest)}
            variants = {
                variant.version: NotedVariant(
                    weight=variant.weight,
                    since=before[variant.version].since if variant.version in before else event.at,
                )
                for variant in event.variants
            }
            state = Watched(revision=event.revision, variants=variants)
            return Change("DeploymentNoted", state.model_dump(mode="json"))

        aggregate = journal.aggregate(event.tenant, "watch", event.model)
        await self._journal.decide(aggregate, event.id, event.by or SELF, decide)
        for variant in event.variants:
            self._changed.add(Series(event.tenant, event.model, variant.version))

    def served(self, series: Series) -> None:
        """There are new rows to compare."""
        self._changed.add(series)

    # The comparison.

    async def compare_changed(self) -> int:
        """Compares every version that has something new; the number of them.

        Raises the first error when a version could not be compared; it is tried again next time.
        """
        if not self._resumed:
            await self._resume()
        changed, self._changed = self._changed, set()
        failure: BasaltError | None = None
        for series in sorted(changed):
            try:
                with acting_for(series.tenant):
                    await self.compare(series)
            except BasaltError as error:
                self._changed.add(series)
                failure = failure or error
        if failure is not None:
            raise failure
        return len(changed)

    async def _resume(self) -> None:
        """After a start every version in service is compared once: rows may have waited."""
        for entry in await self._journal.heads("watch"):
            for each in _versions(entry):
                self._changed.add(Series(entry.tenant, entry.name, each.version))
        self._resumed = True

    async def compare(self, series: Series) -> DriftReport | None:
        """Compares one version now; None when it is not in service."""
        watch = await self._journal.latest(journal.aggregate(series.tenant, "watch", series.model))
        serving = {each.version: each for each in _versions(watch)}.get(series.version)
        if watch is not None and serving is None:
            return None  # The last rows of a version that was taken out.
        since = serving.since if serving else None
        samples = await self._serving.samples(series, since, self._limits.window_rows)
        report = await self._report(series, samples)
        await self._serving.put_report(series.tenant, report)
        self._meters.compared(series.tenant, report)
        began = since.isoformat() if since else ""
        if report.drifted:
            await self._raise(series, began, report, _traceparent(samples))
        elif report.calm:
            await self._recover(series)
        return report

    async def _report(self, series: Series, samples: list[PredictionSample]) -> DriftReport:
        try:
            reference = await self._references.reference(series)
        except NotFoundError as error:
            return self._nothing(series, 0, 0, f"There is nothing to compare with: {error}")
        live = live_columns(reference, samples, self._limits.window_rows)
        rows = max((len(column) for column in live.values()), default=0)
        if rows < self._limits.rows_min:
            waits = f"{rows} live rows of the {self._limits.rows_min} that a comparison needs."
            return self._nothing(series, rows, reference.rows, waits)
        # Sixty tests take some 30 ms: too long for the event loop.
        classes = reference.classes if reference.categorical else 0
        rows, comparisons = await asyncio.to_thread(
            self._limits.compare, reference.columns, live, classes
        )
        return DriftReport(
            model=series.model,
            version=series.version,
            at=self._clock.now(),
            live_rows=rows,
            reference_rows=reference.rows,
            comparisons=comparisons,
            alpha=self._limits.alpha,
            problem="" if comparisons else "The live rows hold no numbers to compare.",
        )

    def _nothing(self, series: Series, live: int, reference: int, problem: str) -> DriftReport:
        return DriftReport(
            model=series.model,
            version=series.version,
            at=self._clock.now(),
            live_rows=live,
            reference_rows=reference,
            problem=problem,
        )

    # Episodes.

    async def _raise(
        self, series: Series, since: str, report: DriftReport, traceparent: str
    ) -> None:
        """Opens an episode, unless one is open; the event continues the trace of a prediction."""
        features = tuple(
            DriftedFeature(
                feature=each.feature, statistic=each.statistic, value=each.value, limit=each.limit
            )
            for each in report.comparisons
            if each.drifted
        )[:FEATURES_NAMED_MAX]

        async def decide(latest: Entry | None) -> Change | None:
            open_ = _episodes(latest)
            if series.version in open_ and open_[series.version].since == since:
                return None
            event = DriftDetected(
                id=self._clock.new_id(),
                tenant=series.tenant,
                at=self._clock.now(),
                model=series.model,
                version=series.version,
                features=features,
                live_rows=report.live_rows,
            )
            episode = Episode(series.version, event.id, telemetry.trace_id(), since)
            return Change("DriftDetected", _state({**open_, series.version: episode}), (event,))

        aggregate = journal.aggregate(series.tenant, "drift", series.model)
        # A span for each look at a version that drifts on would be noise.
        entry = await self._journal.latest(aggregate)
        episode = _episodes(entry).get(series.version)
        if episode is None or episode.since != since:
            with telemetry.span(
                "drift detected",
                under=traceparent or None,
                basalt_tenant=series.tenant,
                basalt_model=series.model,
            ):
                entry = await self._journal.decide(aggregate, self._clock.new_id(), SELF, decide)
                await self._alert(series, _episodes(entry)[series.version], features)
        else:
            # The process may have ended between the event and its alert; told twice is told once.
            await self._alert(series, episode, features)

    async def _alert(
        self, series: Series, episode: Episode, features: tuple[DriftedFeature, ...]
    ) -> None:
        told = ", ".join(
            f"{each.feature} ({each.statistic.upper()} {each.value:.2f}, limit {each.limit:.2f})"
            for each in features[:FEATURES_TOLD_MAX]
        )
        more = len(features) - FEATURES_TOLD_MAX
        await self._alerts.raise_once(
            series.tenant,
            episode.event_id,
            "warning",
            "drift.detected",
            f"{series.model}/{series.version}",
            f"The predictions of {series.model} version {series.version} are made on data unlike"
            f" that of its training: {told}{f' and {more} more' if more > 0 else ''}.",
        )

    async def _recover(self, series: Series) -> None:
        aggregate = journal.aggregate(series.tenant, "drift", series.model)
        episode = _episodes(await self._journal.latest(aggregate)).get(series.version)
        if episode is None:
            return

        async def decide(latest: Entry | None) -> Change | None:
            open_ = _episodes(latest)
            if open_.get(series.version) != episode:
                return None
            del open_[series.version]
            return Change("DriftEnded", _state(open_))

        cause = f"{episode.event_id}/recovered"
        await self._journal.decide(aggregate, cause, SELF, decide)
        await self._alerts.raise_once(
            series.tenant,
            cause,
            "info",
            "drift.recovered",
            f"{series.model}/{series.version}",
            f"The data of {series.model} version {series.version} is like its training data again.",
        )

    # Answers.

    async def newest(self, tenant: str, model: str, version: int = 0) -> DriftAnswer:
        """The newest report of a version; 0: of one that drifts, else of the one that serves most.

        Raises NotFoundError when nothing of the model is known.
        """
        watch = await self._journal.latest(journal.aggregate(tenant, "watch", model))
        drift = await self._journal.latest(journal.aggregate(tenant, "drift", model))
        reports = {each.version: each for each in await self._serving.reports(tenant, model)}
        report = reports.get(version) if version else _foremost(reports, _versions(watch))
        if report is None:
            of = f"version {version} of {model}" if version else f"the model {model}"
            raise NotFoundError(
                f"Nothing of {of} has been compared yet.",
                which=model,
                next_step="Deploy it and ask it for predictions; a report follows in seconds.",
            )
        return DriftAnswer(report, _episodes(drift).get(report.version))


def _foremost(reports: dict[int, DriftReport], serving: list[Serving]) -> DriftReport | None:
    """The report that matters most: drifted, then most traffic, then newest version."""
    weights = {each.version: each.weight for each in serving}
    candidates = [report for version, report in reports.items() if version in weights]
    return max(
        candidates or reports.values(),
        key=lambda each: (each.drifted, weights.get(each.version, 0), each.version),
        default=None,
    )


def _versions(watch: Entry | None) -> list[Serving]:
    if watch is None:
        return []
    return [
        Serving(version, each.weight, each.since)
        for version, each in _watched(watch).variants.items()
    ]


def _watched(entry: Entry) -> Watched:
    return Watched.model_validate(entry.state)


def _episodes(entry: Entry | None) -> dict[int, Episode]:
    if entry is None:
        return {}
    return {
        version: Episode(version, each.event_id, each.trace_id, each.since)
        for version, each in Drifting.model_validate(entry.state).episodes.items()
    }


def _state(episodes: dict[int, Episode]) -> dict[str, Any]:
    state = Drifting(
        episodes={
            each.version: OpenEpisode(
                event_id=each.event_id, trace_id=each.trace_id, since=each.since
            )
            for each in episodes.values()
        }
    )
    return state.model_dump(mode="json")


def _traceparent(samples: list[PredictionSample]) -> str:
    """Of the newest sampled prediction that has one."""
    return next((sample.traceparent for sample in samples if sample.traceparent), "")
