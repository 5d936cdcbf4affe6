"""ingest's core with its real Kafka consumer, and a producer that plays the upstream system."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from aiokafka import AIOKafkaProducer

from libs.common import flow
from libs.common.clock import SystemClock
from libs.common.history import Mended
from libs.common.kafka import KafkaAccess
from services.ingest.core.datasets import DatasetVersion
from services.ingest.core.quarantine import Quarantined
from services.ingest.outbound.kafka_records import KafkaRecords
from tests.support.eventually import eventually
from tests.support.topics import BareTopics
from tests.support.upstream import CONTRACT, TENANT, Ingest, Record, ingest_core
from tools.servers.ports import free_ports

REPOSITORY = Path(__file__).parents[2]
WITHIN_S = 60.0


@dataclass
class Consuming:
    """One replica of ingest, and a source of its own that no other test has."""

    bootstrap: str
    core: Ingest
    records: KafkaRecords
    producer: AIOKafkaProducer
    source: str
    tenant: str = TENANT

    @property
    def topic(self) -> str:
        return flow.upstream_topic(self.tenant, self.source)

    @property
    def contract(self) -> str:
        return CONTRACT.replace("name: scans", f"name: {self.source}", 1)

    async def put_source(self) -> None:
        await self.core.sources.put(self.tenant, self.source, self.contract, "ada")

    async def publish(self, records: Iterable[Record], partition: int | None = None) -> None:
        sent = [
            await self.producer.send(
                self.topic,
                each.value,
                # Kafka takes a message without a value only if it has a key.
                key=b"" if each.value is None else None,
                partition=partition,
                headers=list(each.headers),
                timestamp_ms=each.timestamp,
            )
            for each in records
        ]
        for each in sent:
            await each

    async def settled(self, count: int) -> tuple[int, int]:
        """Accepted and held, once that many records have been taken in."""

        async def taken() -> tuple[int, int]:
            counts = await self.core.sources.counts(self.tenant, self.source)
            assert counts.accepted + counts.waiting == count, (counts, self.records.problem)
            return counts.accepted, counts.waiting

        return await eventually(taken, within_s=WITHIN_S)

    async def held(self) -> list[Quarantined]:
        return await self.core.held(self.source)

    async def seal(self) -> DatasetVersion:
        version, _ = await self.core.datasets.seal(self.tenant, self.source, "", "ada")
        return version

    async def sealed(self) -> pl.DataFrame:
        return await self.core.rows(await self.seal())

    async def taken_in(self) -> int:
        counts = await self.core.sources.counts(self.tenant, self.source)
        return counts.accepted + counts.waiting


def new_source() -> str:
    return f"scans-{uuid.uuid4().hex[:8]}"


@asynccontextmanager
async def consuming(
    bootstrap: str,
    folder: Path,
    source: str | None = None,
    *,
    tenant: str = TENANT,
    by_itself: bool = True,
) -> AsyncIterator[Consuming]:
    """A replica; several on one folder share its journal. Not `by_itself`: processes consume."""
    core = ingest_core(folder, BareTopics(bootstrap))
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5
    )
    records = KafkaRecords(KafkaAccess(bootstrap), core.intake, Mended("ingest", SystemClock()))
    running = Consuming(bootstrap, core, records, producer, source or new_source(), tenant)
    await producer.start()
    if by_itself:
        await records.start()
    try:
        yield running
    finally:
        await records.stop()
        await producer.stop()
        await core.close()


class Process:
    """`python -m services.ingest`, as it runs everywhere, on the journal and objects of a folder.

    It knows no security, so nobody can call it: tests ask the journal that it shares.
    """

    def __init__(self, bootstrap: str, folder: Path) -> None:
        (port,) = free_ports(1)
        self._log = folder / f"ingest-{port}.log"
        self._environment = {
            "BASALT_KAFKA": bootstrap,
            "BASALT_JOURNAL": f"sqlite:{folder}",
            "BASALT_OBJECTS": f"directory:{folder}",
            "BASALT_RPC_LISTEN": f"127.0.0.1:{port}",
            "BASALT_PEERS": "{}",
            "BASALT_SERVICE_CREDENTIAL": "none",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.ingest",
                cwd=REPOSITORY,
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
            )

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self._process is None or self._process.returncode is not None:
            return 0
        self.send(number)
        return await self._process.wait()
