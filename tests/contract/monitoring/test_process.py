"""The very process that a container runs, killed in the middle: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from libs.common import flow
from libs.common.bus import Bus, Router
from libs.common.kafka import KafkaAccess
from libs.common.stores.ports import Outgoing
from services.monitoring.outbound.sqlite_serving import SqliteServing
from tests.support.eventually import eventually
from tests.support.kafka import started
from tests.support.served import batch
from tools.servers import Kafka
from tools.servers.ports import free_ports

BATCHES = 60


class Process:
    def __init__(self, folder: Path, bootstrap: str) -> None:
        rpc, metrics, otlp, otlp_http, nobody = free_ports(5)
        self.folder = folder
        self._log = folder / "monitoring.log"
        self.environment = {
            **os.environ,
            "BASALT_KAFKA": bootstrap,
            "BASALT_JOURNAL": f"sqlite:{folder}",
            "BASALT_OBJECTS": f"directory:{folder / 'objects'}",
            "BASALT_RPC_LISTEN": f"127.0.0.1:{rpc}",
            "BASALT_PEERS": json.dumps({"security": f"127.0.0.1:{nobody}"}),
            "BASALT_SERVICE_CREDENTIAL": "none",
            "BASALT_METRICS_LISTEN": f"127.0.0.1:{metrics}",
            "BASALT_METRICS_KEY": "a key for the figures",
            "BASALT_OTLP_KEY": "a key for the spans",
            "BASALT_OTLP_LISTEN": f"127.0.0.1:{otlp}",
            "BASALT_OTLP_HTTP_LISTEN": f"127.0.0.1:{otlp_http}",
            "BASALT_TRACES": f"sqlite:{folder}",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, **settings: str) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.monitoring",
                env={**self.environment, **settings},
                stderr=log,
            )
        return self._process

    async def end(self, number: int) -> tuple[int | None, str]:
        """Exit status and what it wrote."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        status = await asyncio.wait_for(self._process.wait(), 30)
        return status, self.written

    @property
    def written(self) -> str:
        return self._log.read_text()


@pytest.fixture
async def process(tmp_path: Path, kafka: Kafka) -> AsyncIterator[Process]:
    made = Process(tmp_path, kafka.bootstrap)
    yield made
    if made._process is not None and made._process.returncode is None:
        await made.end(signal.SIGKILL)
    print(made.written)  # pytest shows it when the test has failed.


async def publish(bus: Bus, tenant: str, number: int) -> None:
    # Of now: what is older than its retention is pruned, even while the test waits for it.
    now, model = datetime.now(UTC), f"m{number % 4}"
    event = batch(f"{tenant}-{number}", at=now, tenant=tenant, model=model, requests=number)
    topic = flow.PREDICTIONS_SERVED
    await bus.publish(
        Outgoing(
            event_id=event.id,
            topic=topic.name,
            key=topic.key_of(event),
            payload=event.model_dump_json(),
        )
    )


async def test_killed_while_it_counts(process: Process, kafka: Kafka) -> None:
    tenant = f"t{uuid4().hex[:12]}"
    store = SqliteServing(process.folder / "monitoring-serving.db")

    async def counted() -> int:
        return sum(totals.requests for totals in (await store.totals(tenant)).values())

    # The gateway publishes these, so its bus makes the topic.
    async with started(Bus(KafkaAccess(kafka.bootstrap), Router("gateway"))) as bus:
        await process.start()
        for number in range(BATCHES):
            await publish(bus, tenant, number)
            await publish(bus, tenant, number)
            if number == BATCHES // 2:
                await eventually(counted, 120)
                await process.end(signal.SIGKILL)
                await process.start()

    async def complete() -> bool:
        return await counted() >= sum(range(BATCHES))

    await eventually(complete, 120)
    status, written = await process.end(signal.SIGTERM)
    assert await counted() == sum(range(BATCHES))
    assert status == 0, written
    assert "Traceback" not in written
    await store.close()


async def test_what_it_lacks_is_said_in_a_line(process: Process) -> None:
    await process.start(BASALT_TRACES="here", BASALT_LOG_LEVEL="error")
    status, written = await process.end(0)
    assert status == 2
    assert "BASALT_TRACES: Value error, 'here' is not sqlite:FOLDER." in written
    assert "Traceback" not in written

    in_the_way = process.folder / "file"
    in_the_way.touch()
    await process.start(BASALT_TRACES=f"sqlite:{in_the_way}", BASALT_LOG_LEVEL="error")
    status, written = await process.end(0)
    assert status == 1
    assert f"answers: File exists. Look at the disk it lies on. ({in_the_way}" in written
    assert "Traceback" not in written

    await process.start(BASALT_METRICS_LISTEN=process.environment["BASALT_KAFKA"])
    status, written = await process.end(0)
    assert status == 1
    assert "cannot be listened on for metrics" in written
    assert "Traceback" not in written
