"""The trainer's core on real stores, its ports' twins, and real measurements to train on.

`python -m tests.support.training FOLDER` is a worker in a process of its own, on a shared journal.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import polars as pl
from sklearn import datasets

from libs.common.clock import SystemClock
from libs.common.errors import DependencyError, NotFoundError
from libs.common.journal import Journal
from libs.common.stores.directory import DirectoryObjects
from libs.common.stores.ports import Entry
from libs.common.stores.sqlite import SqliteJournal
from services.trainer.core import jobs
from services.trainer.core.attempt import Pace, Tools
from services.trainer.core.jobs import Job, job_of
from services.trainer.core.order import Order
from services.trainer.core.oversight import Oversight
from services.trainer.core.pipeline import parse, with_parameters
from services.trainer.core.pipelines import Pipelines
from services.trainer.core.queue import JobQueue
from services.trainer.core.queueing import Queueing, RunRequest
from services.trainer.core.worker import Worker
from services.trainer.outbound.process import ProcessTraining
from services.trainer.outbound.workplace import FolderWorkplace
from services.trainer.ports import (
    Columns,
    DatasetVersion,
    Exited,
    Message,
    Place,
    ProcessLimits,
    Refused,
    Training,
)

TENANT = "acme"
QUICK = Pace(lease_s=6.0, beat_s=0.2, poll_s=0.2, checkpoint_every_s=0.1)
PIPELINE = """\
name: tumours
description: Tells benign from malignant by what was measured.
data: {dataset: patients, label: diagnosis}
steps:
  - {train: logistic_regression, as: baseline}
  - {train: mlp, parameters: {hidden: [32], epochs: 30, dropout: 0.1}}
  - {select: log_loss}
  - {export: onnx}
model: {name: tumour}
gates: {accuracy_min: 0.9}
triggers: [dataset_versioned, drift_detected]
"""
CONTRACT_TYPES: dict[pl.DataType, str] = {
    pl.Float64(): "float",
    pl.Int64(): "integer",
    pl.String(): "string",
    pl.Boolean(): "boolean",
}
# Alone without the baseline, and for long enough to be cut.
LONG = {"mlp.epochs": "1500"}


def patients(count: int = 400) -> pl.DataFrame:
    """Breast-cancer measurements, as scikit-learn ships them, with a key and a time."""
    return _table(datasets.load_breast_cancer(), "diagnosis").head(count)


def flowers() -> pl.DataFrame:
    return _table(datasets.load_iris(), "species")


def _table(bunch: object, label: str) -> pl.DataFrame:
    values, names = bunch.data, bunch.feature_names  # pyright: ignore[reportAttributeAccessIssue]
    classes = [str(bunch.target_names[n]) for n in bunch.target]  # pyright: ignore[reportAttributeAccessIssue]
    columns = {str(name): values[:, n] for n, name in enumerate(names)}
    keys = [f"row-{n:04}" for n in range(len(classes))]
    return pl.DataFrame({"key": keys, **columns, label: classes})


def parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def order(
    folder: Path,
    table: pl.DataFrame,
    definition: str = PIPELINE,
    parameters: Mapping[str, str] | None = None,
    checkpoint_every_s: float = 0.0,
    key: Sequence[str] = ("key",),
) -> Order:
    """Lays out a folder for a training process."""
    folder.mkdir(parents=True, exist_ok=True)
    table.write_parquet(folder / "data.parquet")
    wanted = Order(
        definition=with_parameters(parse(definition), parameters or {}).document(),
        job="tumours-v1",
        author="ann",
        trace_id="0" * 32,
        dataset="patients",
        dataset_version=1,
        dataset_manifest_sha256="a" * 64,
        pipeline_revision=1,
        key_columns=tuple(key),
        checkpoint_every_s=checkpoint_every_s,
    )
    (folder / "order.json").write_text(wanted.model_dump_json())
    return wanted


@dataclass
class MemoryDatasets:
    """Datasets as ingest would give them. `sealed` counts how often a version was asked for."""

    tables: dict[tuple[str, int], bytes] = field(default_factory=dict)
    unsealed: dict[str, bytes] = field(default_factory=dict)
    sealed: list[str] = field(default_factory=list)
    reachable: bool = True
    silent: bool = False

    def add(self, dataset: str, table: pl.DataFrame) -> DatasetVersion:
        content = parquet(table)
        number = self._latest(dataset) + 1
        self.tables[dataset, number] = content
        return self._version(dataset, number, created=True)

    async def version(self, dataset: str, version: int) -> DatasetVersion:
        number = version or self._latest(dataset)
        if (dataset, number) not in self.tables:
            raise NotFoundError(f"There is no dataset {dataset}.", which=dataset)
        return self._version(dataset, number, created=False)

    async def seal(self, dataset: str, idempotency_key: str) -> DatasetVersion:
        self.sealed.append(idempotency_key)
        fresh = self.unsealed.pop(dataset, None)
        if fresh is None:
            return await self.version(dataset, 0)
        number = self._latest(dataset) + 1
        self.tables[dataset, number] = fresh
        return self._version(dataset, number, created=True)

    async def columns(self, dataset: str) -> Columns:
        if not self.reachable:
            raise DependencyError("The service ingest cannot be reached.", which="ingest")
        if self.silent:
            await asyncio.Event().wait()
        latest = self._latest(dataset)
        return Columns(self._types(dataset, latest), key=("key",)) if latest else Columns()

    async def read(self, version: DatasetVersion) -> AsyncIterator[bytes]:
        yield self.tables[version.dataset, version.version]

    def _latest(self, dataset: str) -> int:
        return max((number for name, number in self.tables if name == dataset), default=0)

    def _version(self, dataset: str, number: int, *, created: bool) -> DatasetVersion:
        digest = sha256(self.tables[dataset, number]).hexdigest()
        return DatasetVersion(dataset, number, digest, self._types(dataset, number), created)

    def _types(self, dataset: str, number: int) -> dict[str, str]:
        schema = pl.read_parquet_schema(io.BytesIO(self.tables[dataset, number]))
        return {name: CONTRACT_TYPES[dtype] for name, dtype in schema.items()}


class EndlessTraining:
    """Trains until it is stopped; `running` holds the places it is at."""

    def __init__(self) -> None:
        self.running: list[Path] = []

    async def run(
        self, place: Place, limits: ProcessLimits, traceparent: str
    ) -> AsyncGenerator[Message, None]:
        self.running.append(place.path)
        try:
            await asyncio.Event().wait()
            yield Exited(0)
        finally:
            self.running.remove(place.path)


class CrampedTraining(EndlessTraining):
    """Finds its disk full so many times, then trains."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def run(
        self, place: Place, limits: ProcessLimits, traceparent: str
    ) -> AsyncGenerator[Message, None]:
        if self.times:
            self.times -= 1
            yield Refused("The disk is full.", "work", "Free space on it.", passes=True)
            yield Exited(1)
            return
        async for message in super().run(place, limits, traceparent):
            yield message


@dataclass
class Trainer:
    """The whole core in one folder: a journal, objects, one worker."""

    folder: Path
    journal: Journal
    objects: DirectoryObjects
    datasets: MemoryDatasets
    pipelines: Pipelines
    queue: JobQueue
    queueing: Queueing
    oversight: Oversight
    worker: Worker

    @classmethod
    def at(
        cls,
        folder: Path,
        *,
        name: str = "one",
        clock: SystemClock | None = None,
        pace: Pace = QUICK,
        training: Training | None = None,
        data: MemoryDatasets | None = None,
        jobs_at_once: int = 1,
        tenant_jobs_at_once: int = 0,
    ) -> Trainer:
        """Trainers in the same folder share everything but the worker and its work folder."""
        clock = clock or SystemClock()
        journal = Journal(SqliteJournal(folder / "trainer.db"), clock)
        objects = DirectoryObjects(folder / "objects")
        held = data or MemoryDatasets()
        pipelines = Pipelines(journal, clock, held)
        queue = JobQueue(journal, clock, running_max=tenant_jobs_at_once)
        tools = Tools(
            clock=clock,
            pipelines=pipelines,
            datasets=held,
            objects=objects,
            workplace=FolderWorkplace(folder / f"work-{name}"),
            training=training or ProcessTraining(),
            pace=pace,
        )
        return cls(
            folder=folder,
            journal=journal,
            objects=objects,
            datasets=held,
            pipelines=pipelines,
            queue=queue,
            queueing=Queueing(journal, clock, pipelines, held, queue),
            oversight=Oversight(journal, objects, clock, queue),
            worker=Worker(journal, queue, tools, name, jobs_at_once),
        )

    async def run(
        self, parameters: Mapping[str, str] | None = None, key: str = "", definition: str = PIPELINE
    ) -> str:
        """Puts the pipeline as ann and runs it; the job's id."""
        await self.pipelines.put(TENANT, definition, "ann")
        request = RunRequest("tumours", idempotency_key=key, parameters=parameters or {})
        return job_of(await self.queueing.run(TENANT, request, "ann")).id

    async def job(self, job: str) -> Job:
        return job_of(await self.oversight.entry(TENANT, job))

    async def history(self, job: str) -> list[Entry]:
        return await self.journal.history(f"{TENANT}/{jobs.KIND}/{job}")

    async def ended(self, job: str, within_s: float = 120.0) -> Job:
        async with asyncio.timeout(within_s):
            async for seen in self.oversight.watch(TENANT, job):
                if seen.ended:
                    return seen
        raise AssertionError(f"{job} is not watched to its end.")

    async def events(self, job: str) -> list[str]:
        """Topics of every event in the outboxes of a job."""
        return [each.topic for entry in await self.history(job) for each in entry.outbox]

    async def files(self, job: str) -> dict[str, bytes]:
        """The candidate's files, by name."""
        found: dict[str, bytes] = {}
        name = ""
        async for part in self.oversight.candidate(TENANT, job):
            name = part.file.name if part.file else name
            found[name] = found.get(name, b"") + part.content
        return found

    async def log(self, job: str) -> list[str]:
        return [line.text async for line in self.oversight.follow_log(TENANT, job)]

    async def close(self) -> None:
        await self.worker.stop()
        await self.journal.store.close()


async def _work(folder: Path, name: str) -> None:
    """A worker beside others, with the dataset of the folder, until it is killed."""
    table = pl.read_parquet(folder / "patients.parquet")
    data = MemoryDatasets()
    data.add("patients", table)
    trainer = Trainer.at(folder, name=name, data=data)
    await trainer.worker.start()
    print(json.dumps({"worker": name}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_work(Path(sys.argv[1]), sys.argv[2]))
