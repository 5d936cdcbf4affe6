"""ingest killed, stopped and doubled while records stream: count in is count out."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.consuming import WITHIN_S, Consuming, Process, consuming
from tests.support.eventually import eventually
from tests.support.upstream import record
from tools.servers import Kafka

RECORDS = 4_000
BURST = 50
BAD_EVERY = 40
KILLS = 4


@pytest.fixture
async def stream(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Consuming]:
    """A source whose records only processes of ingest consume."""
    async with consuming(kafka.bootstrap, tmp_path, by_itself=False) as made:
        await made.put_source()
        yield made


@pytest.fixture
async def process(stream: Consuming, tmp_path: Path) -> AsyncIterator[Callable[[], Process]]:
    started: list[Process] = []

    def new() -> Process:
        started.append(Process(stream.bootstrap, tmp_path))
        return started[-1]

    yield new
    for each in started:
        await each.end(signal.SIGKILL)


async def publish(stream: Consuming, first: int, end: int) -> None:
    """In bursts, so that chunks end at all sorts of places."""
    for at in range(first, end, BURST):
        await stream.publish(
            record(number, width=None if number % BAD_EVERY == 7 else 1)
            for number in range(at, min(at + BURST, end))
        )


async def check_all_there(stream: Consuming, count: int) -> None:
    held = len([number for number in range(count) if number % BAD_EVERY == 7])
    assert await stream.settled(count) == (count - held, held)
    rows = await stream.sealed()
    assert rows["scan"].n_unique() == rows.height == count - held
    origins = [each.record.origin for each in await stream.held()]
    assert len(origins) == len(set(origins)) == held


async def test_killed_again_and_again_it_takes_each_record_once(
    stream: Consuming, process: Callable[[], Process]
) -> None:
    ingest = process()
    await ingest.start()
    each = RECORDS // (KILLS + 1)
    for part in range(KILLS):
        publishing = asyncio.create_task(publish(stream, part * each, (part + 1) * each))
        # Killed once it has begun with this part, with the rest of it on its way.
        await eventually(lambda seen=part * each: _more_than(stream, seen), within_s=WITHIN_S)
        await ingest.kill()
        await ingest.start()
        await publishing
    await publish(stream, KILLS * each, RECORDS)

    await check_all_there(stream, RECORDS)
    assert await ingest.end() == 0


async def _more_than(stream: Consuming, seen: int) -> bool:
    return await stream.taken_in() > seen


async def test_a_zombie_that_wakes_up_changes_nothing(
    stream: Consuming, process: Callable[[], Process]
) -> None:
    zombie, successor = process(), process()
    await zombie.start()
    await publish(stream, 0, 200)
    await stream.settled(200)

    zombie.send(signal.SIGSTOP)
    await publish(stream, 200, 400)
    await successor.start()
    # Kafka gives the partitions to the successor once the zombie was silent for too long.
    await stream.settled(400)
    zombie.send(signal.SIGCONT)
    await publish(stream, 400, 800)

    await check_all_there(stream, 800)


async def test_ended_properly_it_leaves_in_time(
    stream: Consuming, process: Callable[[], Process]
) -> None:
    ingest = process()
    await ingest.start()
    await publish(stream, 0, 100)
    await stream.settled(100)

    assert await asyncio.wait_for(ingest.end(), WITHIN_S) == 0
