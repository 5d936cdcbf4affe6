"""Upstream records through real Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from libs.common.errors import DependencyError
from libs.common.kafka import KafkaAccess
from libs.common.rpc import Peers
from services.ingest.outbound.security_streams import SecurityTopics
from tests.support.consuming import Consuming, consuming
from tests.support.eventually import eventually
from tests.support.upstream import TENANT, Record, headers, ingest_core, record, row
from tools.servers import Kafka
from tools.servers.ports import free_ports

BAD = [
    (Record(0, b'{"scan": ', headers("bad-0")), "unparsable"),
    (Record(0, b"\xff\x00\xfe", headers("bad-1")), "unparsable"),
    (Record(0, None, headers("bad-2")), "unparsable"),
    (Record(0, json.dumps(row(3)).encode(), headers("bad-3", ce_type=None)), "envelope"),
    (Record(0, json.dumps(row(4)).encode(), headers("bad-4", ce_id=b"\xff")), "envelope"),
    (record(5, width=None), "missing"),
    (record(6, slices="three"), "type"),
    (record(7, width={"value": 0.01, "unit": "m"}), "unit"),
    (record(8, width=-1), "range"),
    (record(9, colour="red"), "unknown-column"),
]


async def test_records_of_a_new_source_are_taken_in_soon(ingest: Consuming) -> None:
    await ingest.put_source()
    await ingest.publish(record(number) for number in range(400))

    assert await ingest.settled(400) == (400, 0)
    rows = await ingest.sealed()
    assert rows["scan"].to_list() == [f"scan-{number:06d}" for number in range(400)]


async def test_bad_records_are_held_byte_for_byte_with_reason_and_origin(
    ingest: Consuming,
) -> None:
    await ingest.put_source()
    await ingest.publish([record(number) for number in range(100, 150)], partition=1)
    await ingest.publish([each for each, _ in BAD], partition=1)

    assert await ingest.settled(50 + len(BAD)) == (50, len(BAD))
    held = {each.record.origin: each for each in await ingest.held()}
    for offset, (sent, reason) in enumerate(BAD, start=50):
        found = held[f"{ingest.topic}/1/{offset}"].record
        assert (found.reason, found.body) == (reason, sent.value or b"")
        assert found.detail


async def test_a_mended_record_comes_in_once(ingest: Consuming) -> None:
    await ingest.put_source()
    await ingest.publish([record(1), record(2, width={"value": 1, "unit": "m"})])
    await ingest.settled(2)
    (held,) = await ingest.held()

    body = json.dumps(row(2)).encode()
    await ingest.core.remedies.mend(TENANT, held.id, body, "ada")
    for _ in range(2):
        replayed, _ = await ingest.core.remedies.replay(TENANT, held.id, "ada")
        assert replayed.state == "replayed"

    assert (await ingest.sealed()).height == 2


async def test_two_replicas_take_each_record_once(ingest: Consuming, tmp_path: Path) -> None:
    await ingest.put_source()
    await ingest.publish(record(number) for number in range(300))
    async with consuming(ingest.bootstrap, tmp_path, ingest.source):
        # The second joins while the first is at work, and leaves again before the end.
        await ingest.publish(record(number) for number in range(300, 600))
        assert await ingest.settled(600) == (600, 0)
    await ingest.publish(record(number) for number in range(600, 900))

    assert await ingest.settled(900) == (900, 0)
    assert (await ingest.sealed()).height == 900


async def test_a_replica_that_was_overtaken_goes_on_from_the_journal(ingest: Consuming) -> None:
    await ingest.put_source()
    await ingest.publish([record(number) for number in range(10)], partition=0)
    await ingest.settled(10)

    # Another replica, which Kafka does not know of, takes what comes next.
    other = await ingest.core.intake.position(ingest.topic, 0)
    await ingest.core.intake.commit(other, [record(10, offset=10)])
    await ingest.publish([record(number) for number in range(10, 20)], partition=0)

    assert await ingest.settled(20) == (20, 0)
    assert (await ingest.sealed()).height == 20


async def test_records_of_a_topic_without_a_source_wait(ingest: Consuming) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=ingest.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(ingest.topic, 2, 1)])
    finally:
        await admin.close()
    await ingest.publish(record(number) for number in range(20))
    await eventually(lambda: "belongs to no source" in ingest.records.problem)
    assert await ingest.core.journal.heads("stream") == []

    await ingest.put_source()

    assert await ingest.settled(20) == (20, 0)


async def test_a_topic_made_anew_is_read_from_its_beginning(ingest: Consuming) -> None:
    await ingest.put_source()
    await ingest.publish([record(number) for number in range(30)], partition=0)
    await ingest.settled(30)
    admin = AIOKafkaAdminClient(bootstrap_servers=ingest.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([ingest.topic])
        await eventually(lambda: _gone(admin, ingest.topic))
    finally:
        await admin.close()
    await ingest.put_source()

    # The first ten come again, as they do when an upstream system is set back.
    await ingest.publish([record(number) for number in range(10)], partition=0)
    await ingest.publish([record(number) for number in range(30, 35)], partition=0)

    await ingest.settled(45)
    assert (await ingest.sealed()).height == 35


async def _gone(admin: AIOKafkaAdminClient, topic: str) -> bool:
    return topic not in await admin.list_topics()


async def test_stopping_commits_what_was_read(kafka: Kafka, tmp_path: Path) -> None:
    async with consuming(kafka.bootstrap, tmp_path) as first:
        await first.put_source()
        await first.publish(record(number) for number in range(50))
        # Topics of other tests on this broker belong to no source here, which is said as well.
        await eventually(lambda: first.topic not in first.records.problem)
        source = first.source
    async with consuming(kafka.bootstrap, tmp_path, source) as second:
        assert await second.settled(50) == (50, 0)


async def test_a_source_put_without_its_topic_is_refused_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    nowhere = Peers({"security": f"127.0.0.1:{port}"})
    core = ingest_core(tmp_path, SecurityTopics(KafkaAccess(f"127.0.0.1:{port}"), nowhere))

    with pytest.raises(DependencyError) as refused:
        await core.put_source()

    assert refused.value.which == "security"
    assert await core.journal.heads("source") == []
    await core.close()
    await nowhere.stop()
