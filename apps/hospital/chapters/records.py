"""1. From upstream events to a dataset version."""

from __future__ import annotations

import json

from aiokafka.errors import KafkaError

from apps.hospital import measurements, upstream
from apps.hospital.story import HERE, SETTLE_S_MAX, SOURCE, Story
from basalt.cli.output import short
from basalt.pb.basalt.v1 import common_pb2, ingest_pb2, trainer_pb2
from libs.common.kafka import KafkaAccess


async def tell(story: Story) -> None:
    story.stage.chapter(1, "The hospital's system publishes 400 records")
    engineer = story.people.engineer
    contract = (HERE / "contract.yaml").read_text()
    source = (
        await engineer.call(
            engineer.ingest.PutSource,
            ingest_pb2.PutSourceRequest(name=SOURCE, contract_yaml=contract),
        )
    ).source
    pipeline = (HERE / "pipeline.yaml").read_text()
    await engineer.call(
        engineer.trainer.PutPipeline, trainer_pb2.PutPipelineRequest(definition_yaml=pipeline)
    )
    await story.give_key()
    story.stage.check(
        await _nobody_else_publishes(story, source.topic),
        "the hospital's system has a key for its topic; who has none publishes nothing",
    )
    messages = upstream.first_delivery(story.patients)
    story.upstream_trace = await story.publish(source.topic, messages)
    bad = await _quarantine_of(story, 3)
    story.stage.table(
        "Quarantine",
        ("reason", "what is wrong", "origin"),
        ((each.reason, each.detail, each.origin) for each in bad),
    )
    story.stage.check(
        sorted(each.reason for each in bad) == ["missing", "unit", "unparsable"],
        "the wrong unit, the missing field and the unparsable message are held, with reasons",
    )
    await _mend(story, next(each for each in bad if each.reason == "unit"))
    version = await story.seal()
    story.stage.check(
        (version.version, version.row_count) == (1, measurements.TRAINING_PATIENTS - 1),
        f"{SOURCE} version 1: {version.row_count} patients, "
        f"{version.duplicates_dropped} duplicates dropped, "
        f"manifest {short(version.manifest_sha256)}",
    )


async def _nobody_else_publishes(story: Story, topic: str) -> bool:
    try:
        await upstream.publish(KafkaAccess(story.kafka, ca=story.kafka_ca), topic, [], lambda: None)
    except KafkaError:
        return True
    return False


async def _quarantine_of(story: Story, count: int) -> list[ingest_pb2.QuarantinedRecord]:
    engineer = story.people.engineer

    async def held() -> list[ingest_pb2.QuarantinedRecord] | None:
        request = ingest_pb2.ListQuarantineRequest(
            source=SOURCE, page=common_pb2.PageRequest(size=100)
        )
        found = list((await engineer.call(engineer.ingest.ListQuarantine, request)).records)
        return found if len(found) >= count else None

    return await story.stage.until("the bad records are listed", held, within_s=SETTLE_S_MAX)


async def _mend(story: Story, record: ingest_pb2.QuarantinedRecord) -> None:
    """The metres become the millimetres that the contract asks for; then it comes in again."""
    engineer = story.people.engineer
    body = json.loads(record.body)
    body["mean_radius"] = body["mean_radius"]["value"] * 1000
    await engineer.call(
        engineer.ingest.MendQuarantined,
        ingest_pb2.MendQuarantinedRequest(id=record.id, body=json.dumps(body).encode()),
    )
    answer = await engineer.call(
        engineer.ingest.ReplayQuarantined, ingest_pb2.ReplayQuarantinedRequest(id=record.id)
    )
    story.stage.check(
        answer.record.state == ingest_pb2.QUARANTINE_STATE_REPLAYED,
        "the record with the wrong unit is mended and replayed",
    )
