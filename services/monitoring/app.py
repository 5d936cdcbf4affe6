"""Puts monitoring together."""

from __future__ import annotations

from pathlib import Path

from libs.common.bus import Bus
from libs.common.clock import Clock
from libs.common.foundation import Foundation
from libs.common.health import Check
from libs.common.history import HistoryFile
from libs.common.http import HttpServer
from libs.common.rpc import Peers
from libs.common.runtime import Closing, Loop, Part, Service
from libs.common.settings import SERVICES
from services.monitoring.core.alerts import Alerts
from services.monitoring.core.deadletters import DeadLetters, Remedies
from services.monitoring.core.drift import DriftLimits
from services.monitoring.core.health import Changes, HealthWatch, PlatformHealth
from services.monitoring.core.news import News
from services.monitoring.core.recording import Recording
from services.monitoring.core.senders import Senders
from services.monitoring.core.traces import Traces
from services.monitoring.core.watch import DriftWatch
from services.monitoring.inbound.events import event_routes
from services.monitoring.inbound.http import metrics_app, otlp_app
from services.monitoring.inbound.otlp import OtlpServer
from services.monitoring.inbound.rpc import MonitoringRpc
from services.monitoring.outbound.inference_references import InferenceReferences
from services.monitoring.outbound.peer_health import PeerHealth
from services.monitoring.outbound.prometheus import PrometheusMeters
from services.monitoring.outbound.sqlite_traces import SqliteTraces
from services.monitoring.ports import Meters, ServingStore
from services.monitoring.settings import Settings

SERVICE = "monitoring"
PRUNE_INTERVAL_S = 60.0


def build(settings: Settings) -> Service:
    peers = {SERVICE: settings.rpc_listen, **settings.peers}
    settings = settings.model_copy(update={"peers": peers})
    ground = Foundation.lay(SERVICE, settings)
    clock, journal = ground.clock, ground.journal
    serving = open_serving(settings.journal)
    meters = PrometheusMeters()
    alerts = Alerts(journal, clock)
    watch = DriftWatch(
        journal=journal,
        serving=serving,
        references=InferenceReferences(ground.peers),
        meters=meters,
        alerts=alerts,
        clock=clock,
        limits=_limits(settings),
    )
    recording = Recording(serving, meters, watch, alerts, clock)
    open_peers = Peers(peers, tls=ground.tls)
    health = PlatformHealth(SERVICES, PeerHealth(SERVICE, ground.peers, open_peers, clock), clock)
    letters = DeadLetters(journal, ground.objects, alerts, meters, clock)
    router = event_routes(recording, watch, News(alerts), letters)
    bus = Bus(ground.kafka, router)
    store = open_traces(settings, clock)
    history = HistoryFile(settings.history, SERVICE) if settings.history else None
    rpc = MonitoringRpc(
        health=health,
        history=history,
        recording=recording,
        watch=watch,
        alerts=alerts,
        traces=Traces(store),
        letters=letters,
        remedies=Remedies(journal, ground.objects, clock),
    )
    metrics = metrics_app(meters.exposition, settings.metrics_key.get_secret_value())
    changes = Changes(history, clock) if history else None
    health_watch = HealthWatch(health, meters, alerts, changes)
    return ground.build(
        router=router,
        register=[rpc.register],
        names=[MonitoringRpc.RPC_NAME],
        parts=[
            Closing("serving store", serving.close),
            open_peers,
            *_receivers(settings, store, meters, clock),
            HttpServer("metrics", settings.metrics_listen, metrics),
            Loop("drift", watch.compare_changed, settings.drift_interval_s),
            Loop("health watch", health_watch.look, settings.health_interval_s),
            Loop("retention", lambda: serving.prune(clock.now()), PRUNE_INTERVAL_S),
        ],
        checks=[Check("serving store", serving.ping)],
        bus=bus,
    )


def open_serving(address: str) -> ServingStore:
    """Beside the journal, in the same technology."""
    if address.startswith("mongodb://"):
        # Imported when chosen: a laptop needs no MongoDB client in memory.
        from services.monitoring.outbound.mongo_serving import MongoServing

        return MongoServing(address)
    from services.monitoring.outbound.sqlite_serving import SqliteServing

    return SqliteServing(Path(address.removeprefix("sqlite:")) / "monitoring-serving.db")


def open_traces(settings: Settings, clock: Clock) -> SqliteTraces | None:
    """None where spans go to a collector instead."""
    if not settings.traces:
        return None
    return SqliteTraces(
        Path(settings.traces.removeprefix("sqlite:")) / "traces.db",
        clock,
        spans_max=settings.trace_spans_max,
        age_s_max=settings.trace_hours_max * 3_600,
    )


def _receivers(
    settings: Settings, store: SqliteTraces | None, meters: Meters, clock: Clock
) -> list[Part]:
    if store is None:
        return []
    senders = Senders(settings.otlp_key.get_secret_value(), meters, clock.monotonic)
    receivers: list[Part] = [store]
    if settings.otlp_listen:
        receivers.append(OtlpServer(settings.otlp_listen, store, senders))
    if settings.otlp_http_listen:
        app = otlp_app(store, senders)
        receivers.append(HttpServer("otlp http", settings.otlp_http_listen, app))
    return receivers


def _limits(settings: Settings) -> DriftLimits:
    return DriftLimits(
        window_rows=settings.drift_window_rows,
        recent_rows=settings.drift_recent_rows,
        rows_min=settings.drift_rows_min,
        ks_limit=settings.drift_ks_limit,
        psi_limit=settings.drift_psi_limit,
        alpha=settings.drift_alpha,
    )
