"""Puts ingest together."""

from __future__ import annotations

from libs.common.foundation import Foundation
from libs.common.runtime import Loop, Service
from services.ingest.core.autosealing import LOOK_S, Autosealing
from services.ingest.core.datasets import Datasets
from services.ingest.core.intake import Intake
from services.ingest.core.quarantine import Quarantine
from services.ingest.core.remedies import Remedies
from services.ingest.core.sources import Sources
from services.ingest.core.streams import Streams
from services.ingest.core.uploads import Uploads
from services.ingest.inbound.events import event_routes
from services.ingest.inbound.rpc import RPC_NAME, IngestServicer
from services.ingest.outbound.kafka_records import KafkaRecords
from services.ingest.outbound.parquet_process import ParquetProcess
from services.ingest.outbound.security_streams import SecurityKeys, SecurityTopics
from services.ingest.settings import Settings


def build(settings: Settings) -> Service:
    foundation = Foundation.lay("ingest", settings)
    journal, objects, clock = foundation.journal, foundation.objects, foundation.clock
    topics = SecurityTopics(foundation.kafka, foundation.peers)
    streams = Streams(journal, objects)
    sources = Sources(journal, clock, streams, topics)
    datasets = Datasets(journal, objects, clock, sources, streams)
    autosealing = Autosealing(journal, sources, datasets)
    sealing = Loop("sealing", autosealing.look, LOOK_S)

    def notice(tenant: str, source: str) -> None:
        autosealing.notice(tenant, source)
        sealing.wake()

    uploads = Uploads(journal, objects, clock, sources, streams, notice, ParquetProcess())
    quarantine = Quarantine(journal, sources, streams)
    remedies = Remedies(journal, objects, clock, sources, streams, quarantine, notice)
    records = KafkaRecords(
        foundation.kafka,
        Intake(journal, streams, sources, notice, clock, settings.ahead_s_max),
        foundation.mended,
    )
    servicer = IngestServicer(
        sources, SecurityKeys(foundation.peers), uploads, datasets, quarantine, remedies
    )
    return foundation.build(
        router=event_routes(),
        register=[servicer.register],
        names=[RPC_NAME],
        parts=[sealing, records],
    )
