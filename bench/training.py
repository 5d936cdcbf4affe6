"""What the platform adds to a training, and how soon a drift becomes a claimed job.

    python -m bench.training                 three rounds of about a minute each side, eight minutes
    python -m bench.training --rounds 1 --epochs 1000

Both sides train the same network on the same rows, one after the other in each round. The
platform's side is the whole way by RPC: queued, claimed, rows fetched from ingest and verified, a
process of its own with checkpoints, progress in the journal, candidate stored. One line a figure:
what, its value, what it is compared with. CPU seconds are shown, too, the services' own included:
on a machine with other work they say more than the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc.aio
import polars as pl
from aiokafka import AIOKafkaProducer

from libs.common import flow
from libs.common.events import DriftDetected
from libs.common.pb.basalt.v1 import ingest_pb2
from libs.common.pb.basalt.v1 import trainer_pb2 as pb
from libs.common.pb.basalt.v1.ingest_pb2_grpc import IngestServiceStub
from libs.common.pb.basalt.v1.trainer_pb2_grpc import TrainerServiceStub
from libs.common.runtime import log_to_stderr
from services.ingest.app import build as build_ingest
from services.ingest.settings import Settings as IngestSettings
from services.trainer.app import build as build_trainer
from services.trainer.settings import Settings as TrainerSettings
from tests.support.eventually import eventually
from tests.support.platform import bearer, running, running_security
from tests.support.training import PIPELINE, order, patients
from tools.servers import Kafka

EPOCHS, ROUNDS, DRIFTS = 5_000, 3, 20
AIM = 1.1
WITHIN_S = 30.0
# Drifts are rare. Of two events within half a second the second may have to wait for it to pass:
# aiokafka asks a broker for one topic once at a time, and its question stays open that long.
APART_S = 1.0
DEFINITION = PIPELINE.replace(", dropout: 0.1", "")


@dataclass
class Platform:
    trainer: TrainerServiceStub
    ingest: IngestServiceStub
    kafka: str
    ann: dict[str, Any]
    uploads: int = field(default=0)

    async def knows_keys(self) -> bool:
        calls = (
            self.trainer.ListPipelines(pb.ListPipelinesRequest(), **self.ann),
            self.ingest.ListSources(ingest_pb2.ListSourcesRequest(), **self.ann),
        )
        return [await call.code() for call in calls] == [grpc.StatusCode.OK] * 2

    async def prepare(self) -> None:
        """A source with its rows sealed as version 1, and the pipeline."""
        columns = [f"  - {{name: {name}, type: float}}" for name in patients().columns[1:-1]]
        head = ["name: patients", "key: [key]", "columns:", "  - {name: key, type: string}"]
        contract = "\n".join([*head, *columns, "  - {name: diagnosis, type: string}"])
        await self.ingest.PutSource(
            ingest_pb2.PutSourceRequest(name="patients", contract_yaml=contract), **self.ann
        )
        await self.upload(patients(569))
        await self.ingest.SealDataset(ingest_pb2.SealDatasetRequest(dataset="patients"), **self.ann)
        await self.trainer.PutPipeline(
            pb.PutPipelineRequest(definition_yaml=DEFINITION.replace("[dataset_versioned, ", "[")),
            **self.ann,
        )

    async def upload(self, table: pl.DataFrame) -> None:
        self.uploads += 1
        key = str(self.uploads)
        content = table.write_ndjson().encode()

        async def parts() -> AsyncIterator[ingest_pb2.UploadFileRequest]:
            kind = ingest_pb2.FILE_FORMAT_JSON_LINES
            yield ingest_pb2.UploadFileRequest(source="patients", idempotency_key=key, format=kind)
            yield ingest_pb2.UploadFileRequest(part=content, last=True)

        await self.ingest.UploadFile(parts(), **self.ann)

    async def train(self, epochs: int) -> None:
        """From the call to the job's end."""
        request = pb.RunPipelineRequest(
            pipeline="tumours", dataset_version=1, parameters={"mlp.epochs": str(epochs)}
        )
        job = (await self.trainer.RunPipeline(request, **self.ann)).job
        ended = job
        async for answer in self.trainer.WatchJob(pb.WatchJobRequest(id=job.id), **self.ann):
            ended = answer.job
        assert ended.state == pb.JOB_STATE_COMPLETED, ended.failure

    async def drift_to_claim_ms(self, producer: AIOKafkaProducer, number: int) -> float:
        """From Kafka's acknowledgement of the event to the claim, sealing new rows in between."""
        row = patients(1).with_columns(key=pl.lit(f"new-{number}"))
        await self.upload(row)
        event = DriftDetected(
            id=uuid4().hex,
            tenant="acme",
            at=datetime.now(UTC),
            model="tumour",
            version=1,
            features=(),
            live_rows=500,
        )
        body = event.model_dump_json().encode()
        await producer.send_and_wait(flow.DRIFT_DETECTED.name, body, key=b"acme/tumour")
        began = time.time()
        job = await self._claimed(f"tumours-v{number + 2}")
        await self.trainer.CancelJob(pb.CancelJobRequest(id=job.id), **self.ann)
        return (job.started_at.ToNanoseconds() / 1e9 - began) * 1e3

    async def _claimed(self, name: str) -> pb.Job:
        give_up_at = time.monotonic() + WITHIN_S
        while time.monotonic() < give_up_at:
            try:
                job = (await self.trainer.GetJob(pb.GetJobRequest(id=name), **self.ann)).job
                if job.HasField("started_at"):
                    return job
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
            await asyncio.sleep(0.005)
        raise TimeoutError(f"{name} is not claimed within {WITHIN_S} s.")


@asynccontextmanager
async def platform(folder: Path, kafka: str) -> AsyncIterator[Platform]:
    async with running_security(folder, kafka) as security:
        settings = TrainerSettings(**security.settings("trainer"), work=folder / "work")
        ann = bearer(await security.user("acme", "ann", ["engineer"]))
        async with (
            running(build_ingest(IngestSettings(**security.settings("ingest")))),
            running(build_trainer(settings)),
            grpc.aio.insecure_channel(security.peers["trainer"]) as to_trainer,
            grpc.aio.insecure_channel(security.peers["ingest"]) as to_ingest,
        ):
            made = Platform(
                TrainerServiceStub(to_trainer), IngestServiceStub(to_ingest), kafka, ann
            )
            await eventually(made.knows_keys)
            await made.prepare()
            yield made


def bare(folder: Path, epochs: int) -> None:
    """The plain script, its start included."""
    order(folder, patients(569), DEFINITION, {"mlp.epochs": str(epochs)})
    script = Path(__file__).with_name("bare_training.py")
    files = [str(folder / "data.parquet"), str(folder / "order.json"), str(folder)]
    subprocess.run([sys.executable, str(script), *files], check=True, capture_output=True)


@dataclass
class Cost:
    """Seconds by the clock, and of CPU in this process and its ended children."""

    clock_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    @contextmanager
    def counted(self) -> Iterator[None]:
        clock, cpu = time.perf_counter(), _cpu_s()
        yield
        self.clock_s.append(time.perf_counter() - clock)
        self.cpu_s.append(_cpu_s() - cpu)


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def line(name: str, ours: list[float], theirs: list[float], aim: str) -> str:
    ratio = statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
    return (
        f"{name}  {statistics.median(ours):6.1f} s"
        f"   bare script {statistics.median(theirs):6.1f} s   ratio {ratio:.2f}{aim}"
    )


async def measure(options: argparse.Namespace, folder: Path, kafka: str) -> None:
    async with platform(folder / "platform", kafka) as basalt:
        ours, theirs = Cost(), Cost()
        for _ in range(options.rounds):
            with theirs.counted():
                await asyncio.to_thread(bare, folder / "bare", options.epochs)
            with ours.counted():
                await basalt.train(options.epochs)
        aim = f" (aim ≤ {AIM})"
        print(line("training through the platform", ours.clock_s, theirs.clock_s, aim))
        print(line("the same in CPU seconds      ", ours.cpu_s, theirs.cpu_s, ""), flush=True)
        async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
            waits: list[float] = []
            for number in range(options.drifts):
                await asyncio.sleep(APART_S)
                waits.append(await basalt.drift_to_claim_ms(producer, number))
        print(
            f"drift event → job claimed      {statistics.median(waits):6.0f} ms"
            f"   of {len(waits)}, the slowest {max(waits):.0f} ms; new rows sealed in between",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Training through the platform.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--drifts", type=int, default=DRIFTS)
    options = parser.parse_args()
    log_to_stderr("bench", "error")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # It tells of elections at the start.
    with tempfile.TemporaryDirectory(prefix="basalt-bench-") as name:
        folder = Path(name)
        with Kafka(folder / "kafka") as kafka:
            asyncio.run(measure(options, folder, kafka.bootstrap))


if __name__ == "__main__":
    main()
