"""What is tried on running containers: who is let in, and the platform's own story."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from apps.hospital import measurements
from apps.hospital.chapters import drift, ending, records, release, serving, training
from apps.hospital.measurements import Patients
from apps.hospital.people import People, introduced
from apps.hospital.stage import Stage
from apps.hospital.story import HERE, Story
from basalt.pb.basalt.v1 import health_pb2 as health
from basalt.pb.basalt.v1 import ingest_pb2, monitoring_pb2
from libs.common import telemetry

SOURCE = "uploads"
PATIENTS = 200
REFUSED_S_MAX = 5.0
HEALTHY_S_MAX = 60.0


@dataclass(frozen=True)
class Site:
    """Where everything is; `certificates` is the folder of ingest's."""

    door: str
    kafka: str
    metrics: str
    metrics_key: str
    otlp: str
    otlp_token: str
    services: dict[str, str]
    first_login: Path
    certificates: Path


async def tell(site: Site, console: Console, *, with_training: bool) -> None:
    """Raises StoryError when something does not hold."""
    stage = Stage(console)
    await _only_services_are_let_in(site, stage)
    patients, held_out = measurements.load()
    flush_spans = telemetry.set_up("hospital", site.otlp, site.otlp_token)
    async with introduced(site.door, site.first_login) as people:
        await _upload(people, stage, patients)
        await _everything_serves(people, stage, with_training)
        if with_training:
            story = Story(stage, people, site.door, site.kafka, patients, held_out)
            story.kafka_ca = site.certificates / "ca.pem"
            for chapter in (records, training, release, serving, drift, ending):
                await chapter.tell(story)
        _metrics_are_there(site, stage)
    await asyncio.to_thread(flush_spans)


async def _only_services_are_let_in(site: Site, stage: Stage) -> None:
    """A service answers who has a certificate of the authority, and nobody else."""
    ca, key, certificate = (
        (site.certificates / name).read_bytes() for name in ("ca.pem", "ingest.key", "ingest.pem")
    )
    for name, address in site.services.items():
        known = grpc.ssl_channel_credentials(ca, key, certificate)
        stranger = grpc.ssl_channel_credentials(ca)
        stage.check(
            await _answers(grpc.aio.secure_channel(address, known)),
            f"{name} answers a service that has a certificate",
        )
        stage.check(
            not await _answers(grpc.aio.secure_channel(address, stranger))
            and not await _answers(grpc.aio.insecure_channel(address)),
            f"{name} refuses who has none, and plain text",
        )


async def _answers(channel: grpc.aio.Channel) -> bool:
    async with channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=REFUSED_S_MAX
            )
        except grpc.aio.AioRpcError:
            return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING


async def _upload(people: People, stage: Stage, patients: Patients) -> None:
    """A file of records becomes a dataset version: journal, objects and events in containers."""
    engineer = people.engineer
    contract = (HERE / "contract.yaml").read_text().replace("name: patients", f"name: {SOURCE}", 1)
    await engineer.call(
        engineer.ingest.PutSource,
        ingest_pb2.PutSourceRequest(name=SOURCE, contract_yaml=contract),
    )
    content = patients.take(0, PATIENTS).shuffled_csv()

    async def parts() -> AsyncIterator[ingest_pb2.UploadFileRequest]:
        yield ingest_pb2.UploadFileRequest(
            source=SOURCE, idempotency_key=uuid4().hex, format=ingest_pb2.FILE_FORMAT_CSV
        )
        yield ingest_pb2.UploadFileRequest(part=content, last=True)

    summary = (await engineer.send(engineer.ingest.UploadFile, parts())).summary
    stage.check(summary.accepted == PATIENTS, f"{summary.accepted} uploaded records are accepted")
    sealed = await engineer.call(
        engineer.ingest.SealDataset,
        ingest_pb2.SealDatasetRequest(dataset=SOURCE, idempotency_key=uuid4().hex),
    )
    stage.check(sealed.version.row_count == PATIENTS, "and are sealed as version 1")


async def _everything_serves(people: People, stage: Stage, with_training: bool) -> None:
    operator = people.operator
    left_out = set[str]() if with_training else {"trainer"}
    wrong: list[str] = []

    async def serving() -> list[str] | None:
        answer = await operator.call(
            operator.monitoring.GetPlatformHealth, monitoring_pb2.GetPlatformHealthRequest()
        )
        wrong[:] = [
            f"{each.component}: {each.problem}"
            for each in answer.components
            if each.state != health.HEALTH_STATE_SERVING and each.component not in left_out
        ]
        return None if wrong else [each.component for each in answer.components]

    found = await stage.until(f"everything serves {wrong}", serving, within_s=HEALTHY_S_MAX)
    stage.check(True, f"all of these serve: {', '.join(sorted(set(found) - left_out))}")


def _metrics_are_there(site: Site, stage: Stage) -> None:
    headers = {"authorization": f"Bearer {site.metrics_key}"}
    asked = urllib.request.Request(f"http://{site.metrics}/metrics", headers=headers)
    with urllib.request.urlopen(asked, timeout=REFUSED_S_MAX) as answer:  # noqa: S310
        text = answer.read().decode()
    stage.check(
        f'{telemetry.COMPONENT_UP}{{name="ingest"}} 1.0' in text, "Prometheus can read the figures"
    )
