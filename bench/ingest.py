"""How fast records become chunks: a bare aiokafka consumer against the whole of ingest's row path.

    python -m bench.ingest                  three rounds of 200,000 records of 300 B, a minute
    python -m bench.ingest --records 50000 --rounds 1

Both read the same topic of the same Kafka, one after the other in each round, in a process of
their own. The bare consumer counts; ingest opens each CloudEvent, checks it against its contract,
writes Parquet and commits it with its offsets in the journal (SQLite, synchronous). One line a
figure: what, its value, what it is compared with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from libs.common.clock import SystemClock
from libs.common.history import Mended
from libs.common.kafka import KafkaAccess
from services.ingest.outbound.kafka_records import KafkaRecords
from services.ingest.ports import Stream
from tests.support.eventually import eventually
from tests.support.topics import BareTopics
from tests.support.upstream import Ingest, ingest_core
from tools.servers import Kafka

TENANT, SOURCE = "acme", "meters"
TOPIC = f"upstream.{TENANT}.{SOURCE}"
RECORDS, ROUNDS = 200_000, 3
AIM = 0.5
WITHIN_S = 120.0
SENT_AT_ONCE = 2_000
CONTRACT = """\
name: meters
key: [reading]
columns:
  - {name: reading, type: string, role: key}
  - {name: meter, type: string}
  - {name: voltage, type: float, unit: V, minimum: 0, maximum: 500}
  - {name: current, type: float, unit: A, minimum: 0, maximum: 200}
  - {name: frequency, type: float, unit: Hz, minimum: 0}
  - {name: temperature, type: float, unit: C, minimum: -60, maximum: 120}
  - {name: humidity, type: float, minimum: 0, maximum: 1}
  - {name: phase, type: integer, minimum: 1, maximum: 3}
  - {name: errors, type: integer, minimum: 0}
  - {name: online, type: boolean}
  - {name: state, type: string, allowed: [ok, warning, failed]}
"""


def body(number: int) -> bytes:
    return json.dumps(
        {
            "reading": f"reading-{number:09d}",
            "meter": f"meter-of-the-south-district-{number % 5_000:06d}",
            "voltage": 230 + number % 17 / 7,
            "current": number % 1_000 / 13,
            "frequency": 50 + number % 7 / 100,
            "temperature": number % 90 - 20.5,
            "humidity": number % 100 / 100,
            "phase": 1 + number % 3,
            "errors": number % 5,
            "online": number % 2 == 0,
            "state": ("ok", "warning", "failed")[number % 3],
        }
    ).encode()


async def publish(bootstrap: str, count: int) -> int:
    """All records, on all partitions; the bytes of one."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=10
    )
    await producer.start()
    try:
        for first in range(0, count, SENT_AT_ONCE):
            sent = [
                await producer.send(TOPIC, body(number), headers=_headers(number))
                for number in range(first, min(first + SENT_AT_ONCE, count))
            ]
            await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return len(body(0))


def _headers(number: int) -> list[tuple[str, bytes]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", str(number).encode()),
        ("ce_source", b"/meters"),
        ("ce_type", b"meter.read"),
        ("content-type", b"application/json"),
    ]


async def bare(bootstrap: str, count: int) -> float:
    """Seconds in which aiokafka alone reads the records, a group's member as ingest is."""
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=bootstrap,
        group_id="bare",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    began = time.perf_counter()
    await consumer.start()
    try:
        read = 0
        while read < count:
            batches = await consumer.getmany(timeout_ms=100)
            read += sum(map(len, batches.values()))
        return time.perf_counter() - began
    finally:
        await consumer.stop()


async def taken_in(bootstrap: str, count: int, folder: Path) -> float:
    """Seconds until the journal has committed them all."""
    core = ingest_core(folder, BareTopics(bootstrap))
    await core.sources.put(TENANT, SOURCE, CONTRACT, "bench")
    records = KafkaRecords(KafkaAccess(bootstrap), core.intake, Mended("ingest", SystemClock()))
    began = time.perf_counter()
    await records.start()
    try:
        await eventually(lambda: _accepted(core, count), within_s=WITHIN_S)
        return time.perf_counter() - began
    finally:
        await records.stop()
        await core.close()


async def _accepted(core: Ingest, count: int) -> bool:
    return (await core.sources.counts(TENANT, SOURCE)).accepted >= count


def in_its_own_process(which: str, bootstrap: str, count: int) -> float:
    command = [sys.executable, __file__, "--only", which, "--kafka", bootstrap]
    done = subprocess.run(
        [*command, "--records", str(count)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{which} failed:\n{done.stdout}{done.stderr}")
    return float(done.stdout)


def measure(count: int, rounds: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="basalt-bench-"))
    try:
        with Kafka(folder / "kafka") as kafka:
            asyncio.run(BareTopics(kafka.bootstrap).put(Stream(TENANT, SOURCE, durable=False)))
            size = uvloop.run(publish(kafka.bootstrap, count))
            pairs = [
                (
                    in_its_own_process("bare", kafka.bootstrap, count),
                    in_its_own_process("ingest", kafka.bootstrap, count),
                )
                for _ in range(rounds)
            ]
    finally:
        shutil.rmtree(folder)
    ratio = statistics.median(bare_s / ingest_s for bare_s, ingest_s in pairs)
    bare_s, ingest_s = (statistics.median(each) for each in zip(*pairs, strict=True))
    what = f"{count} CloudEvents of {size} B, median of {rounds} rounds"
    print(f"bare aiokafka consumer   {count / bare_s:9,.0f} records/s   {what}")
    print(f"streaming ingest         {count / ingest_s:9,.0f} records/s   the same topic")
    verdict = "reached" if ratio >= AIM else "missed"
    print(f"ingest / bare consumer   {ratio:9.2f}             aim {AIM}: {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description="How fast ingest takes records in.")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", choices=["bare", "ingest"], help=argparse.SUPPRESS)
    parser.add_argument("--kafka", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only == "bare":
        print(uvloop.run(bare(given.kafka, given.records)))
    elif given.only == "ingest":
        with tempfile.TemporaryDirectory(prefix="basalt-bench-") as folder:
            print(uvloop.run(taken_in(given.kafka, given.records, Path(folder))))
    else:
        measure(given.records, given.rounds)


if __name__ == "__main__":
    main()
