"""What cannot be read of a real Kafka is held, named, and stops nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.support import logs
from tests.support.batches import CODECS, batch, put, with_wild_header
from tests.support.consuming import WITHIN_S, Consuming, consuming
from tests.support.eventually import eventually
from tests.support.upstream import headers, record, row
from tools.servers import Kafka

MEBIBYTE = 1024 * 1024


async def test_records_of_every_codec_are_taken_in(ingest: Consuming) -> None:
    await ingest.put_source()
    for at, codec in enumerate(CODECS):
        async with AIOKafkaProducer(
            bootstrap_servers=ingest.bootstrap,
            compression_type=None if codec == "none" else codec,
            linger_ms=20,
        ) as producer:
            sent = [record(at * 50 + number) for number in range(50)]
            await asyncio.gather(
                *[
                    await producer.send(
                        ingest.topic, each.value, partition=at % 4, headers=list(each.headers)
                    )
                    for each in sent
                ]
            )

    assert await ingest.settled(50 * len(CODECS)) == (50 * len(CODECS), 0)


async def test_a_bomb_and_a_wild_record_are_held_and_everything_else_goes_on(
    ingest: Consuming,
) -> None:
    await ingest.put_source()
    await ingest.publish([record(0)], partition=0)
    bomb = batch([bytes(150 * MEBIBYTE)], "gzip", headers=headers("bomb"))
    assert await put(ingest.bootstrap, ingest.topic, bomb) == 1
    large = batch([b"x" * 2 * MEBIBYTE], "zstd", headers=headers("large"))
    assert await put(ingest.bootstrap, ingest.topic, large) == 2
    good = b'{"scan": "scan-000003"}'
    wild = with_wild_header([good, b"[" * 500 + b"]" * 500, good], headers("wild"), wild=0)
    assert await put(ingest.bootstrap, ingest.topic, wild) == 3
    await ingest.publish([record(number) for number in range(10, 20)], partition=1)

    assert await ingest.settled(16) == (11, 5)
    held = {each.record.origin.rsplit("/", 1)[-1]: each.record for each in await ingest.held()}
    assert {offset: each.reason for offset, each in held.items()} == {
        "1": "unreadable",
        "2": "too-large",
        "3": "unreadable",
        "4": "unparsable",
        "5": "missing",
    }
    assert "gzip" in held["1"].detail
    assert len(held["1"].body) > 100_000
    assert f"{2 * MEBIBYTE}" not in held["2"].body.decode()
    assert "not UTF-8" in held["3"].detail

    await put(ingest.bootstrap, ingest.topic, bomb)
    await eventually(lambda: f"{ingest.topic}/0 could not be read at offset 6" in _said(ingest))
    await ingest.publish([record(30)], partition=1)
    await ingest.settled(18)
    assert "could not be read at offset 6" in _said(ingest)
    await ingest.publish([record(31)], partition=0)
    # Topics of other tests on this broker belong to no source here, which is said as well.
    await eventually(lambda: ingest.topic not in _said(ingest))


def _said(ingest: Consuming) -> str:
    return ingest.records.problem


async def test_a_damaged_batch_on_the_disk_is_held_with_its_bytes(tmp_path: Path) -> None:
    broker = await asyncio.to_thread(Kafka(tmp_path / "kafka").start)
    try:
        async with consuming(broker.bootstrap, tmp_path / "ingest", by_itself=False) as ingest:
            await ingest.put_source()
            for number in range(5):
                await ingest.publish([record(number)], partition=0)
            await asyncio.to_thread(broker.stop)
            damaged = logs.damage(broker, ingest.topic, 2)
            await asyncio.to_thread(broker.start)
            await ingest.records.start()

            assert await ingest.settled(5) == (4, 1)
            (held,) = await ingest.held()
            assert (held.record.reason, held.record.position) == ("unreadable", 2)
            assert held.record.body == damaged
    finally:
        await asyncio.to_thread(broker.stop)


@pytest.mark.parametrize("kept", [7, 0])
async def test_a_log_that_lost_its_end_and_grew_again_is_read_from_where_it_did(
    tmp_path: Path, kept: int
) -> None:
    broker = await asyncio.to_thread(Kafka(tmp_path / "kafka").start)
    try:
        async with consuming(broker.bootstrap, tmp_path / "ingest") as first:
            await first.put_source()
            source = first.source
            for number in range(10):
                bad = {"width": None} if number in (2, 8) else {}
                await first.publish([record(number, **bad)], partition=0)
            assert await first.settled(10) == (8, 2)
        await asyncio.to_thread(broker.kill)
        logs.cut(broker, first.topic, kept)
        await asyncio.to_thread(broker.start)
        async with consuming(broker.bootstrap, tmp_path / "ingest", source) as second:
            # Upstream sends what it knows to be lost, bad as it was, and other records.
            again = [] if kept else [record(2, width=None), record(8, width=None)]
            await second.publish([*again, record(7)], partition=0)
            await second.publish([record(number) for number in range(10, 30)], partition=0)

            async def all_there() -> bool:
                rows = await second.sealed()
                wanted = {row(number)["scan"] for number in range(30) if number not in (2, 8)}
                return set(rows["scan"]) == wanted and rows.height == len(wanted)

            await eventually(all_there, within_s=WITHIN_S)
            assert sorted(each.record.origin[-1] for each in await second.held()) == ["2", "8"]
    finally:
        await asyncio.to_thread(broker.stop)


async def test_records_that_were_deleted_before_they_were_read_leave_a_gap_that_is_seen(
    kafka: Kafka, tmp_path: Path
) -> None:
    async with consuming(kafka.bootstrap, tmp_path / "ingest") as first:
        await first.put_source()
        source = first.source
        await first.publish([record(number) for number in range(3)], partition=0)
        assert await first.settled(3) == (3, 0)
    async with consuming(kafka.bootstrap, tmp_path / "ingest", source, by_itself=False) as second:
        await second.publish([record(number) for number in range(3, 10)], partition=0)
        await deleted(kafka.bootstrap, second.topic, before=7)
        await second.records.start()

        assert await second.settled(7) == (6, 1)
        (held,) = await second.held()
        assert (held.record.reason, held.record.position) == ("unreadable", 6)
        assert "deleted by their retention" in held.record.detail
        assert set((await second.sealed())["scan"]) == {
            row(number)["scan"] for number in (0, 1, 2, 7, 8, 9)
        }


async def deleted(bootstrap: str, topic: str, before: int) -> None:
    """As Kafka's retention does it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before)})
    finally:
        await admin.close()
