"""The whole service, called by RPC with real tokens."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import polars as pl
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from basalt.aio import AsyncClient
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import ingest_pb2 as client_pb
from libs.common import flow
from libs.common.pb.basalt.v1 import health_pb2
from libs.common.pb.basalt.v1 import ingest_pb2 as pb
from libs.common.pb.basalt.v1.common_pb2 import PageRequest
from libs.common.pb.basalt.v1.health_pb2_grpc import HealthServiceStub
from libs.common.pb.basalt.v1.ingest_pb2_grpc import IngestServiceStub
from services.ingest.app import build
from services.ingest.settings import Settings
from tests.support.consuming import new_source
from tests.support.eventually import eventually
from tests.support.platform import bearer, running, running_security
from tests.support.upstream import CONTRACT, record, row
from tools.servers import Kafka

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SOURCES = [new_source() for _ in range(2)]


@dataclass
class Service:
    stub: IngestServiceStub
    channel: grpc.aio.Channel
    address: str
    kafka: str
    ann: dict[str, Any]  # An engineer of acme.
    eve: dict[str, Any]  # An engineer of another tenant.
    monitoring: dict[str, Any]
    # Its topic is nobody else's, as the broker outlives a test.
    source: str = field(default_factory=new_source)

    async def put_source(self, name: str = "") -> pb.Source:
        name = name or self.source
        contract = CONTRACT.replace("name: scans", f"name: {name}", 1)
        request = pb.PutSourceRequest(name=name, contract_yaml=contract)
        return (await self.stub.PutSource(request, **self.ann)).source

    async def upload(self, records: list[bytes], key: str) -> pb.UploadSummary:
        async def parts() -> AsyncIterator[pb.UploadRecordsRequest]:
            yield pb.UploadRecordsRequest(source=self.source, idempotency_key=key)
            for each in records:
                yield pb.UploadRecordsRequest(records=[each])
            yield pb.UploadRecordsRequest(last=True)

        return (await self.stub.UploadRecords(parts(), **self.ann)).summary

    async def seal(self) -> pb.DatasetVersion:
        request = pb.SealDatasetRequest(dataset=self.source)
        return (await self.stub.SealDataset(request, **self.ann)).version


@pytest.fixture
async def service(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Service]:
    async with running_security(tmp_path, kafka.bootstrap) as security:
        ann = bearer(await security.user("acme", "ann", ["engineer"]))
        eve = bearer(await security.user("umbrella", "eve", ["engineer"]))
        settings = Settings(**security.settings("ingest"))
        monitoring = bearer(await security.service_token("monitoring"))
        address = security.peers["ingest"]
        async with running(build(settings)), grpc.aio.insecure_channel(address) as channel:
            stub = IngestServiceStub(channel)
            made = Service(stub, channel, address, kafka.bootstrap, ann, eve, monitoring)
            await eventually(lambda: _knows_keys(made))
            yield made


async def _knows_keys(service: Service) -> bool:
    call = service.stub.ListSources(pb.ListSourcesRequest(), **service.ann)
    return await call.code() is grpc.StatusCode.OK


async def refused(call: Any, code: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    assert failure.value.code().name == code, failure.value.details()
    return failure.value.details() or ""


async def test_from_an_upstream_record_to_a_dataset_and_its_event(service: Service) -> None:
    source = await service.put_source()
    assert (source.topic, source.revision) == (f"upstream.acme.{source.name}", 1)
    assert source.changed.by == "ann"
    async with AIOKafkaProducer(bootstrap_servers=service.kafka) as producer:
        for number in range(20):
            sent = record(number) if number != 7 else record(7, width=None)
            headers = [*sent.headers, ("traceparent", PARENT.encode())]
            await producer.send_and_wait(source.topic, sent.value, headers=headers)

    async def taken_in() -> pb.Source:
        request = pb.GetSourceRequest(name=source.name)
        found = (await service.stub.GetSource(request, **service.ann)).source
        assert found.records_accepted + found.records_quarantined == 20
        return found

    found = await eventually(taken_in, within_s=30)
    assert (found.records_accepted, found.records_quarantined) == (19, 1)
    version = await service.seal()
    assert (version.version, version.row_count, version.quarantined) == (1, 19, 1)
    assert version.trace_id == PARENT.split("-")[1]
    assert [column.name for column in version.columns][:2] == ["scan", "width"]

    event = await _next_event(service.kafka, version.manifest_sha256)
    assert event["dataset"] == source.name
    read = service.stub.ReadDataset(pb.ReadDatasetRequest(dataset=source.name), **service.ann)
    answers = [answer async for answer in read]
    assert answers[0].version == version
    rows = pl.read_parquet(io.BytesIO(b"".join(answer.part for answer in answers)))
    assert rows.height == 19
    await _listed(service, version)


async def _next_event(kafka: str, manifest_sha256: str) -> dict[str, Any]:
    """The event of that version, which continues the upstream record's trace."""
    async with AIOKafkaConsumer(
        flow.DATASET_VERSIONED.name, bootstrap_servers=kafka, auto_offset_reset="earliest"
    ) as consumer:
        async for message in consumer:
            event = json.loads(message.value or b"{}")
            if event["manifest_sha256"] == manifest_sha256:
                headers = dict(message.headers)
                assert PARENT.split("-")[1] in headers["traceparent"].decode()
                return event
    raise AssertionError("The consumer ended.")


async def _listed(service: Service, version: pb.DatasetVersion) -> None:
    stub, ann = service.stub, service.ann
    datasets = (await stub.ListDatasets(pb.ListDatasetsRequest(), **ann)).datasets
    assert [(each.name, each.latest_version) for each in datasets] == [(version.dataset, 1)]
    request = pb.ListDatasetVersionsRequest(dataset=version.dataset)
    assert list((await stub.ListDatasetVersions(request, **ann)).versions) == [version]
    wanted = pb.GetDatasetVersionRequest(dataset=version.dataset, version=1)
    assert (await stub.GetDatasetVersion(wanted, **ann)).version == version


async def test_quarantine_by_rpc(service: Service) -> None:
    await service.put_source()
    bad = json.dumps(row(1, width={"value": 1, "unit": "m"})).encode()
    await service.upload([bad, b"{", json.dumps(row(2)).encode()], "key")
    stub, ann = service.stub, service.ann

    request = pb.ListQuarantineRequest(page=PageRequest(size=1))
    first = await stub.ListQuarantine(request, **ann)
    request.page.token = first.next_page_token
    second = await stub.ListQuarantine(request, **ann)
    (held,), (other,) = first.records, second.records
    assert (held.reason, held.body, held.origin) == ("unit", bad, "upload/key/0")
    assert (other.reason, second.next_page_token) == ("unparsable", "")

    still_bad = pb.MendQuarantinedRequest(id=held.id, body=bad)
    assert "still breaks" in await refused(
        stub.MendQuarantined(still_bad, **ann), "INVALID_ARGUMENT"
    )
    unmended = pb.ReplayQuarantinedRequest(id=held.id)
    await refused(stub.ReplayQuarantined(unmended, **ann), "FAILED_PRECONDITION")
    mend = pb.MendQuarantinedRequest(id=held.id, body=json.dumps(row(1)).encode())
    mended = (await stub.MendQuarantined(mend, **ann)).record
    assert (mended.state, mended.mended_body) == (pb.QUARANTINE_STATE_MENDED, mend.body)
    answer = await stub.ReplayQuarantined(unmended, **ann)
    assert not answer.already_replayed
    assert (await stub.ReplayQuarantined(unmended, **ann)).already_replayed
    replayed = answer.record
    assert replayed.state == pb.QUARANTINE_STATE_REPLAYED
    get = pb.GetQuarantinedRequest(id=held.id)
    assert (await stub.GetQuarantined(get, **ann)).record == replayed
    assert (await service.seal()).row_count == 2


async def test_all_of_a_reason_by_rpc(service: Service) -> None:
    """Counted, mended alike or by bodies of their own, sent in, discarded: the counter falls."""
    await service.put_source()
    metres = [row(number, width={"value": 0.01, "unit": "m"}) for number in range(5)]
    await service.upload([*(json.dumps(each).encode() for each in metres), b"{", b"[]"], "key")
    stub, ann = service.stub, service.ann

    async def waiting(**narrow: Any) -> dict[str, int]:
        wanted = pb.QuarantineFilter(source=service.source, **narrow)
        answer = await stub.CountQuarantine(pb.CountQuarantineRequest(filter=wanted), **ann)
        assert all(each.example.reason == each.reason for each in answer.counts)
        assert not any(each.example.body or each.example.row for each in answer.counts)
        return {each.reason: each.records for each in answer.counts}

    assert await waiting() == {"unit": 5, "unparsable": 2}
    assert await waiting(upload="key", reason="unit") == {"unit": 5}
    assert await waiting(upload="other") == {}
    wanted = pb.QuarantineFilter(source=service.source, reason="unit")
    page = pb.ListQuarantineRequest(filter=wanted, page=PageRequest(size=1))
    first = (await stub.ListQuarantine(page, **ann)).records[0]
    assert json.loads(first.row) == metres[0]

    own = pb.MendedRecord(id=first.id, body=json.dumps(row(0, width=9)).encode())
    wrong = pb.MendedRecord(id=first.id.rpartition(".")[0] + ".1", body=b"{}")
    by_file = pb.BatchMendQuarantinedRequest(records=[own, wrong])
    told = (await stub.BatchMendQuarantined(by_file, **ann)).progress
    assert (told.done, told.unfit) == (1, 1)
    scale = pb.RowChange(scale=pb.ColumnFactor(column="width", factor=1_000))
    change = pb.BatchChangeQuarantinedRequest(filter=wanted, changes=[scale])
    *_, last = [each.progress async for each in stub.BatchChangeQuarantined(change, **ann)]
    assert (last.done, last.unfit) == (4, 0)
    replay = pb.BatchReplayQuarantinedRequest(filter=pb.QuarantineFilter(source=service.source))
    *_, last = [each.progress async for each in stub.BatchReplayQuarantined(replay, **ann)]
    assert (last.done, last.unfit) == (5, 2)
    assert last.examples
    assert await waiting() == {"unparsable": 2}
    discard = pb.BatchDiscardQuarantinedRequest(filter=pb.QuarantineFilter(source=service.source))
    *_, last = [each.progress async for each in stub.BatchDiscardQuarantined(discard, **ann)]
    assert last.done == 2

    get = pb.GetSourceRequest(name=service.source)
    source = (await stub.GetSource(get, **ann)).source
    assert (source.records_accepted, source.records_quarantined) == (5, 0)
    assert source.records_discarded == 2
    version = await service.seal()
    assert (version.row_count, version.quarantined) == (5, 0)


async def test_remedies_that_say_too_little_are_refused(service: Service) -> None:
    await service.put_source()
    stub, ann = service.stub, service.ann
    everywhere = pb.BatchDiscardQuarantinedRequest()
    twice = pb.BatchMendQuarantinedRequest(records=[pb.MendedRecord(id="a")] * 2)
    of = pb.QuarantineFilter(source=service.source)
    for call in (
        anext(aiter(stub.BatchDiscardQuarantined(everywhere, **ann))),
        anext(aiter(stub.BatchReplayQuarantined(pb.BatchReplayQuarantinedRequest(), **ann))),
        *(
            anext(
                aiter(
                    stub.BatchChangeQuarantined(
                        pb.BatchChangeQuarantinedRequest(filter=of, changes=each), **ann
                    )
                )
            )
            for each in (
                [],
                [pb.RowChange()],
                [pb.RowChange(set=pb.ColumnValue(column="width", value_json="{"))],
                [pb.RowChange(scale=pb.ColumnFactor(column="width"))],
            )
        ),
        stub.BatchMendQuarantined(pb.BatchMendQuarantinedRequest(), **ann),
        stub.BatchMendQuarantined(twice, **ann),
        stub.CountQuarantine(
            pb.CountQuarantineRequest(filter=pb.QuarantineFilter(reason="x")), **ann
        ),
    ):
        await refused(call, "INVALID_ARGUMENT")


async def test_what_is_answered_early_is_heard_however_much_is_sent(service: Service) -> None:
    """A refusal, and an upload that was here before: nobody reads the rest."""
    source = await service.put_source()
    token = dict(service.ann["metadata"])["authorization"].removeprefix("Bearer ")

    async def parts(to: str) -> AsyncIterator[client_pb.UploadFileRequest]:
        yield client_pb.UploadFileRequest(
            source=to, idempotency_key="large", format=client_pb.FILE_FORMAT_JSON_LINES
        )
        for number in range(200):
            line = json.dumps(row(number)).encode() + b" " * 200_000 + b"\n"
            yield client_pb.UploadFileRequest(part=line)
        yield client_pb.UploadFileRequest(last=True)

    async with AsyncClient(service.address, token=token) as client:
        for _ in range(5):
            with pytest.raises(BasaltError, match="no source"):
                await client.send(client.ingest.UploadFile, parts("nowhere"))
        for repeated in (False, True, True, True):
            answer = await client.send(client.ingest.UploadFile, parts(source.name))
            assert answer.summary.accepted == 200
            assert answer.summary.repeated_upload == repeated


async def test_uploads_by_rpc(service: Service) -> None:
    await service.put_source()
    content = "\n".join(json.dumps(row(number)) for number in range(40)).encode()

    async def parts(format_: Any, source: str) -> AsyncIterator[pb.UploadFileRequest]:
        yield pb.UploadFileRequest(source=source, idempotency_key="k", format=format_)
        for at in range(0, len(content), 999):
            yield pb.UploadFileRequest(part=content[at : at + 999])
        yield pb.UploadFileRequest(last=True)

    stub, ann, lines = service.stub, service.ann, pb.FILE_FORMAT_JSON_LINES
    for repeated in (False, True):
        answer = await stub.UploadFile(parts(lines, service.source), **ann)
        assert (answer.summary.accepted, answer.summary.repeated_upload) == (40, repeated)
    no_format = stub.UploadFile(parts(pb.FILE_FORMAT_UNSPECIFIED, service.source), **ann)
    assert "format" in await refused(no_format, "INVALID_ARGUMENT")
    await refused(stub.UploadFile(parts(lines, "nowhere"), **ann), "NOT_FOUND")

    async def nothing() -> AsyncIterator[pb.UploadRecordsRequest]:
        return
        yield

    await refused(stub.UploadRecords(nothing(), **ann), "INVALID_ARGUMENT")

    async def cut_off() -> AsyncIterator[pb.UploadRecordsRequest]:
        yield pb.UploadRecordsRequest(source=service.source, records=[b"{}"])

    assert "last" in await refused(stub.UploadRecords(cut_off(), **ann), "INVALID_ARGUMENT")
    given_up = stub.UploadRecords(**ann)
    await given_up.write(pb.UploadRecordsRequest(source=service.source, records=[b"{}"]))
    given_up.cancel()
    request = pb.GetSourceRequest(name=service.source)
    found = (await stub.GetSource(request, **ann)).source
    assert (found.records_accepted, found.records_quarantined) == (40, 0)


async def test_bad_input_is_refused_with_what_and_next(service: Service) -> None:
    await service.put_source()
    stub, ann = service.stub, service.ann
    bad = pb.PutSourceRequest(name="x", contract_yaml="name: x\ncolumns: 3\n")
    assert "line 2: columns" in await refused(stub.PutSource(bad, **ann), "INVALID_ARGUMENT")
    other = pb.PutSourceRequest(name="x", contract_yaml=CONTRACT)
    assert "not of 'x'" in await refused(stub.PutSource(other, **ann), "INVALID_ARGUMENT")
    await refused(stub.GetSource(pb.GetSourceRequest(name="../y"), **ann), "NOT_FOUND")
    empty = pb.SealDatasetRequest(dataset=service.source)
    await refused(stub.SealDataset(empty, **ann), "FAILED_PRECONDITION")
    for page in (PageRequest(size=501), PageRequest(size=-1), PageRequest(token="?")):
        for call in (
            stub.ListSources(pb.ListSourcesRequest(page=page), **ann),
            stub.ListDatasets(pb.ListDatasetsRequest(page=page), **ann),
            stub.ListQuarantine(pb.ListQuarantineRequest(page=page), **ann),
        ):
            await refused(call, "INVALID_ARGUMENT")


async def test_another_tenant_finds_nothing(service: Service) -> None:
    await service.put_source()
    await service.upload([b"{", json.dumps(row(1)).encode()], "key")
    await service.seal()
    (held,) = (await service.stub.ListQuarantine(pb.ListQuarantineRequest(), **service.ann)).records
    stub, eve, name = service.stub, service.eve, service.source

    for call in (
        stub.GetSource(pb.GetSourceRequest(name=name), **eve),
        stub.SealDataset(pb.SealDatasetRequest(dataset=name), **eve),
        stub.GetDatasetVersion(pb.GetDatasetVersionRequest(dataset=name), **eve),
        stub.ListDatasetVersions(pb.ListDatasetVersionsRequest(dataset=name), **eve),
        stub.GetQuarantined(pb.GetQuarantinedRequest(id=held.id), **eve),
        stub.MendQuarantined(pb.MendQuarantinedRequest(id=held.id), **eve),
        stub.ReplayQuarantined(pb.ReplayQuarantinedRequest(id=held.id), **eve),
        stub.BatchMendQuarantined(
            pb.BatchMendQuarantinedRequest(records=[pb.MendedRecord(id=held.id)]), **eve
        ),
        anext(
            aiter(
                stub.BatchDiscardQuarantined(
                    pb.BatchDiscardQuarantinedRequest(ids=[held.id]), **eve
                )
            )
        ),
        anext(
            aiter(
                stub.BatchReplayQuarantined(
                    pb.BatchReplayQuarantinedRequest(filter=pb.QuarantineFilter(source=name)), **eve
                )
            )
        ),
    ):
        await refused(call, "NOT_FOUND")
    assert not (await stub.ListSources(pb.ListSourcesRequest(), **eve)).sources
    assert not (await stub.ListQuarantine(pb.ListQuarantineRequest(), **eve)).records
    assert not (await stub.CountQuarantine(pb.CountQuarantineRequest(), **eve)).counts
    await refused(stub.ListSources(pb.ListSourcesRequest()), "UNAUTHENTICATED")


async def test_sources_are_listed_in_pages(service: Service) -> None:
    for name in SOURCES:
        await service.put_source(name)
    request = pb.ListSourcesRequest(page=PageRequest(size=1))
    names: list[str] = []
    while True:
        answer = await service.stub.ListSources(request, **service.ann)
        names += [source.name for source in answer.sources]
        if not answer.next_page_token:
            break
        request.page.token = answer.next_page_token
    assert names == sorted(SOURCES)


async def test_its_health_names_what_it_depends_on(service: Service) -> None:
    answer = await HealthServiceStub(service.channel).GetServiceHealth(
        health_pb2.GetServiceHealthRequest(), **service.monitoring
    )
    assert [each.component for each in answer.components] == [
        "ingest",
        "kafka",
        "journal",
        "objects",
        "disk",
    ]
    assert {each.state for each in answer.components[1:]} == {health_pb2.HEALTH_STATE_SERVING}
