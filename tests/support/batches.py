"""Record batches as no well-behaved producer sends them, and a way to send them nevertheless."""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.support.upstream import NOON_MS

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
# Where a batch's own fields lie.
LENGTH, CRC, ATTRIBUTES, LAST_OFFSET_DELTA, COUNT = 8, 17, 21, 23, 57
Headers = Sequence[tuple[str, bytes | None]]


def batch(
    values: Sequence[bytes], codec: str = "none", base: int = 0, headers: Headers = ()
) -> bytes:
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], 0, -1, -1, -1, 1 << 30)
    for at, value in enumerate(values):
        builder.append(at, NOON_MS, None, value, list(headers))
    built = bytearray(builder.build())
    built[:8] = base.to_bytes(8, "big")
    return bytes(built)


def changed(built: bytes, at: int, to: bytes, *, resealed: bool = True) -> bytes:
    """With other bytes at a place; `resealed`: its checksum says that they are meant."""
    made = bytearray(built)
    made[at : at + len(to)] = to
    if resealed:
        made[CRC : CRC + 4] = calc_crc32c(bytes(made[ATTRIBUTES:])).to_bytes(4, "big")
    return bytes(made)


def with_wild_header(values: Sequence[bytes], headers: Headers, wild: int) -> bytes:
    """A batch in which the record number `wild` has a header whose name is not UTF-8."""
    built = batch(values, headers=[*headers, ("zz-name", b"x")])
    at = -1
    for _ in range(wild + 1):
        at = built.index(b"zz-name", at + 1)
    return changed(built, at, b"\xff\xfe")


async def put(bootstrap: str, topic: str, built: bytes, partition: int = 0) -> int:
    """Appends a batch to a partition; the offset that Kafka gave it."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client.set_topics([topic])
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        request = ProduceRequest(None, -1, 30_000, [(topic, [(partition, built)])])
        answer = await client.send(leader, request)
        ((_, ((_, code, offset, *_rest),)),) = answer.topics
        assert code == 0, f"Kafka refuses the batch with error {code}."
        return offset
    finally:
        await client.close()
