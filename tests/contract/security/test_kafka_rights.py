"""Each row of `flow.py` on a real broker: who should may, and nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
)

from libs.common import flow, topics
from libs.common.flow import Topic
from libs.common.kafka import KafkaAccess
from libs.common.settings import SERVICES
from services.security.core.upkeep import Upkeep
from tests.support.secured_kafka import Seen, access, administrator, seen_by, upkeep
from tools.servers import Kafka

REFUSED_S_MAX = 20.0
TENANT, SOURCE, OTHER = "acme", "scans", "other"
READS, WRITES = {"READ", "DESCRIBE"}, {"WRITE", "DESCRIBE"}
UPSTREAM = [flow.upstream_topic(TENANT, SOURCE), flow.upstream_topic("globex", SOURCE)]
GROUPS = {
    flow.consumer_group(service, row.name): service
    for row in flow.TOPICS
    for service in (*row.consumers, flow.UNDERTAKER)
} | {flow.UPSTREAM_GROUP: flow.UPSTREAM_READER}


@pytest.fixture(scope="module")
def settled(secured_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Upkeep:
    made = upkeep(secured_kafka.bootstrap, tmp_path_factory.mktemp("security"))

    async def settle() -> None:
        await made.look()
        for tenant in (TENANT, "globex"):
            await made.put_topic(topics.upstream_topic(tenant, SOURCE, 1, durable=False))

    asyncio.run(settle())
    return made


@pytest.fixture(scope="module")
def upstream(secured_kafka: Kafka, settled: Upkeep) -> KafkaAccess:
    key, password = asyncio.run(settled.create_key(TENANT, SOURCE, "ada"))
    return KafkaAccess(secured_kafka.bootstrap, key.user, password)


@pytest.fixture(scope="module")
def seen(secured_kafka: Kafka, settled: Upkeep, upstream: KafkaAccess) -> Mapping[str, Seen]:
    """What each sees, by the broker's own word."""
    names = [name for row in flow.TOPICS for name in (row.name, row.dead_letters)]
    clients = {service: access(secured_kafka.bootstrap, service) for service in SERVICES}
    clients["upstream"] = upstream
    return {
        who: seen_by(client, [*names, *UPSTREAM], list(GROUPS)) for who, client in clients.items()
    }


@pytest.mark.parametrize("row", flow.TOPICS, ids=lambda row: row.name)
def test_a_topic_is_its_producers_and_its_consumers(row: Topic, seen: Mapping[str, Seen]) -> None:
    for who, may in seen.items():
        expected = set[str]()
        if who == row.producer:
            expected |= WRITES
        if who == row.producer or who in row.consumers:
            expected |= READS
        assert may.topics[row.name] == expected, (who, row.name)


@pytest.mark.parametrize("row", flow.TOPICS, ids=lambda row: row.name)
def test_dead_letters_are_the_consumers_to_write_and_theirs_and_monitorings_to_read(
    row: Topic, seen: Mapping[str, Seen]
) -> None:
    for who, may in seen.items():
        expected = set(WRITES) if who in row.consumers else set[str]()
        if who == flow.UNDERTAKER or who in row.consumers:
            expected |= READS
        assert may.topics[row.dead_letters] == expected, (who, row.dead_letters)


def test_a_group_is_held_by_its_service_alone(seen: Mapping[str, Seen]) -> None:
    for group, owner in GROUPS.items():
        for who, may in seen.items():
            assert may.groups[group] == (READS if who == owner else set()), (who, group)


def test_sources_are_read_by_ingest_and_written_by_their_own_key(
    seen: Mapping[str, Seen],
) -> None:
    own, foreign = UPSTREAM
    for who, may in seen.items():
        reads = READS if who == flow.UPSTREAM_READER else set()
        assert may.topics[own] == (WRITES if who == "upstream" else reads), who
        assert may.topics[foreign] == reads, who


# What that means to a client that tries.


async def test_who_does_not_log_in_gets_nothing(secured_kafka: Kafka, settled: Upkeep) -> None:
    strangers = (
        KafkaAccess(secured_kafka.bootstrap),
        KafkaAccess(secured_kafka.bootstrap, "trainer", "a guess"),
        KafkaAccess(secured_kafka.bootstrap, "nobody", "a guess"),
    )
    for stranger in strangers:
        producer = AIOKafkaProducer(**stranger.for_aiokafka())
        with pytest.raises(KafkaConnectionError):
            await asyncio.wait_for(producer.start(), REFUSED_S_MAX)
        await producer.stop()


@pytest.mark.parametrize("row", [flow.DRIFT_DETECTED, flow.PREDICTIONS_SERVED, flow.MODEL_SIGNED])
async def test_a_forged_event_is_refused(
    secured_kafka: Kafka, upstream: KafkaAccess, row: Topic
) -> None:
    forgers = [
        service
        for service in SERVICES
        if service not in (row.producer, flow.UNDERTAKER, *row.consumers)
    ]
    for who in (upstream, *(access(secured_kafka.bootstrap, each) for each in forgers)):
        async with AIOKafkaProducer(**who.for_aiokafka()) as producer:
            with pytest.raises(TopicAuthorizationFailedError):
                await asyncio.wait_for(producer.send_and_wait(row.name, b"{}"), REFUSED_S_MAX)


async def test_the_right_ones_write_without_loss_and_read_in_their_group(
    secured_kafka: Kafka, settled: Upkeep
) -> None:
    """Idempotent, as the bus does it: no right on the cluster is needed for that."""
    row = flow.ACCESS_CHANGED
    writer, reader = (access(secured_kafka.bootstrap, each) for each in ("security", "gateway"))
    async with AIOKafkaProducer(
        **writer.for_aiokafka(), acks="all", enable_idempotence=True
    ) as producer:
        await asyncio.wait_for(producer.send_and_wait(row.name, b"{}"), REFUSED_S_MAX)
    async with AIOKafkaConsumer(
        row.name,
        **reader.for_aiokafka(),
        group_id=flow.consumer_group("gateway", row.name),
        auto_offset_reset="earliest",
    ) as consumer:
        assert (await asyncio.wait_for(consumer.getone(), REFUSED_S_MAX)).value == b"{}"
        await consumer.commit()


async def test_anothers_group_cannot_be_joined(secured_kafka: Kafka, settled: Upkeep) -> None:
    """Monitoring may read the topic, and still not hold up gateway."""
    row = flow.DEPLOYMENT_CHANGED
    consumer = AIOKafkaConsumer(
        row.name,
        **access(secured_kafka.bootstrap, "monitoring").for_aiokafka(),
        group_id=flow.consumer_group("gateway", row.name),
    )
    with pytest.raises(GroupAuthorizationFailedError):
        await asyncio.wait_for(consumer.start(), REFUSED_S_MAX)
    await consumer.stop()


async def test_topics_are_made_changed_and_deleted_by_the_administrator_alone(
    secured_kafka: Kafka, upstream: KafkaAccess
) -> None:
    row = flow.DATASET_VERSIONED
    not_authorized = 29
    for who in (upstream, *(access(secured_kafka.bootstrap, each) for each in SERVICES)):
        client = AIOKafkaAdminClient(**who.for_aiokafka())
        await client.start()
        try:
            made = await client.create_topics([NewTopic("upstream.acme.own", 1, 1)])
            assert made.topic_errors[0][1] == not_authorized, who
            gone = await client.delete_topics([row.name])
            assert gone.topic_error_codes[0][1] == not_authorized, who
        finally:
            await client.close()
    assert row.name in seen_by(administrator(secured_kafka.bootstrap), [row.name], []).topics
