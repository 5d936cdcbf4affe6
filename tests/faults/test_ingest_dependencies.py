"""Kafka killed, the object store out of reach, the stream repeated and shuffled."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import orjson

from tests.support.consuming import WITHIN_S, Consuming, consuming, new_source
from tests.support.eventually import eventually
from tests.support.upstream import Record, headers, record, row
from tools.servers import Kafka


async def test_kafka_killed_in_the_middle_loses_and_repeats_nothing(tmp_path: Path) -> None:
    broker = await asyncio.to_thread(Kafka(tmp_path / "kafka").start)
    try:
        async with consuming(broker.bootstrap, tmp_path) as ingest:
            await ingest.put_source()
            await ingest.publish(record(number) for number in range(500))
            await ingest.settled(500)
            publishing = asyncio.create_task(_publish(ingest, 500, 1_500))
            await eventually(lambda: _more_than(ingest, 550), within_s=WITHIN_S)
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            await publishing

            # The producer is idempotent, so what it sent again is there once.
            assert await ingest.settled(1_500) == (1_500, 0)
            assert (await ingest.sealed()).height == 1_500
    finally:
        await asyncio.to_thread(broker.stop)


async def _publish(ingest: Consuming, first: int, end: int) -> None:
    for at in range(first, end, 20):
        await ingest.publish(record(number) for number in range(at, at + 20))


async def _more_than(ingest: Consuming, count: int) -> bool:
    return await ingest.taken_in() > count


async def test_without_the_object_store_records_wait_and_health_says_so(
    kafka: Kafka, tmp_path: Path
) -> None:
    async with consuming(kafka.bootstrap, tmp_path) as ingest:
        await ingest.put_source()
        await ingest.publish(record(number) for number in range(20))
        await ingest.settled(20)
        objects = tmp_path / "ingest"
        objects.rename(tmp_path / "away")
        objects.write_text("Nothing can be stored below a file.")

        await ingest.publish(record(number) for number in range(20, 40))
        await eventually(lambda: "object store" in ingest.records.problem, within_s=WITHIN_S)
        objects.unlink()
        (tmp_path / "away").rename(objects)

        assert await ingest.settled(40) == (40, 0)
        await eventually(lambda: "object store" not in ingest.records.problem)


async def test_a_repeated_and_shuffled_stream_makes_the_same_version(
    kafka: Kafka, tmp_path: Path
) -> None:
    # Two tenants with a source of the same name: what they make is the same if its bytes are.
    source = new_source()
    events = [_measured(number) for number in range(400)]
    shuffled = events + random.Random(3).choices(events, k=200)  # noqa: S311 - an order.
    random.Random(4).shuffle(shuffled)  # noqa: S311
    digests = []
    for tenant, sent in (("acme", events), ("umbrella", shuffled)):
        folder = tmp_path / tenant
        async with consuming(kafka.bootstrap, folder, source, tenant=tenant) as ingest:
            await ingest.put_source()
            for at in range(0, len(sent), 37):
                await ingest.publish(sent[at : at + 37])
            await ingest.settled(len(sent))
            digests.append((await ingest.seal()).sealed.manifest_sha256)
    assert digests[0] == digests[1]


def _measured(number: int) -> Record:
    """One of several measurements of an object, each with the time when it was taken."""
    time = f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00Z".encode()
    body = orjson.dumps(row(number % 150, width=number % 100))
    return Record(number, body, headers(f"event-{number}", ce_time=time))
