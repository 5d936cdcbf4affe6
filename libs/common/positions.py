"""Whether a log is still the one that a position was read from, and from where to read on if not.

A position alone proves nothing: a log that lost its tail (a power cut may do that) and grew again
past the position looks whole, and so does a topic that was made anew. So a position is kept with
its proof: the topic's identifier, and the leader epoch of the record before it. Kafka says where
the records of that epoch end today; if that is before the position, the two histories part there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, for_code

from libs.common.epoch_requests import EndOfEpoch, Topics
from libs.common.proof import UNKNOWN_EPOCH, Proof


@dataclass(frozen=True, slots=True)
class Judged:
    """Where to read on, and the proof of that place.

    same        the log is the one that was read
    shorter     it lost its tail: from `offset` on there are other records than those that were read
    recreated   the topic was deleted and made anew
    expired     the records from the position up to `offset` were deleted before they were read
    """

    kind: Literal["same", "shorter", "recreated", "expired"]
    offset: int
    proof: Proof


async def judge(
    consumer: AIOKafkaConsumer, place: TopicPartition, offset: int, proof: Proof
) -> Judged:
    """Raises KafkaError while the partition has no leader that answers."""
    topic_id = await _topic_id(consumer, place.topic)
    begin = (await consumer.beginning_offsets([place]))[place]
    if proof.topic_id and topic_id != proof.topic_id:
        return Judged("recreated", begin, Proof(topic_id))
    proven = Proof(topic_id, proof.leader_epoch)
    if proof.leader_epoch != UNKNOWN_EPOCH:
        epoch, common = await _end_of_epoch(consumer, place, proof.leader_epoch)
        if 0 <= common < offset:
            return Judged("shorter", max(common, begin), Proof(topic_id, epoch))
    elif offset > (await consumer.end_offsets([place]))[place]:
        # How far the two have in common is not known: all of it is read again.
        return Judged("shorter", begin, Proof(topic_id))
    if offset < begin:
        return Judged("expired", begin, proven)
    return Judged("same", offset, proven)


async def history_of(consumer: AIOKafkaConsumer, topic: str) -> tuple[str, tuple[int, ...]]:
    """The topic's identifier, and the leader epoch of each partition.

    While neither changes, no log of it can have lost anything.
    """
    topic_id, partitions = await _described(consumer, topic)
    return topic_id, tuple(each[3] for each in sorted(partitions, key=lambda each: each[1]))


async def _topic_id(consumer: AIOKafkaConsumer, topic: str) -> str:
    topic_id, _ = await _described(consumer, topic)
    return topic_id


async def _described(consumer: AIOKafkaConsumer, topic: str) -> tuple[str, list[Any]]:
    client = consumer._client  # pyright: ignore[reportPrivateUsage]
    answer: Any = await client.send(client.get_random_node(), Topics([topic]))
    ((code, _, topic_id, _, partitions, *_rest),) = answer.topics
    if code:
        raise for_code(code)(topic)
    return topic_id.hex, partitions


async def _end_of_epoch(
    consumer: AIOKafkaConsumer, place: TopicPartition, epoch: int
) -> tuple[int, int]:
    """The newest epoch up to this one, and the offset after its last record; -1: not known."""
    client = consumer._client  # pyright: ignore[reportPrivateUsage]
    leader = client.cluster.leader_for_partition(place)
    if leader is None or leader == -1:
        raise KafkaError(f"{place.topic}/{place.partition} has no leader")
    answer: Any = await client.send(leader, EndOfEpoch(place, epoch))
    ((_, partitions, *_rest),) = answer.topics
    ((code, _, found, end, *_others),) = partitions
    if code:
        raise for_code(code)(f"{place.topic}/{place.partition}")
    return found, end
