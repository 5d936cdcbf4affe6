"""How each topic is made: partitions, replicas, settings. `security` makes them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from libs.common import flow

MESSAGE_BYTES_MAX = 1024 * 1024
# Dead letters are the message and more headers; producer and dead-letter topics leave room.
DEAD_LETTER_BYTES_MAX = MESSAGE_BYTES_MAX + 128 * 1024
# From so many replicas on, two of them have a message before it is acknowledged.
REPLICAS_THAT_SUFFICE = 3
# As many messages as Kafka can count: a topic that is synced when the machine likes to.
NEVER_FLUSHED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TopicSpec:
    name: str
    partitions: int
    replication: int
    settings: Mapping[str, str]


def platform_topics(replication: int) -> tuple[TopicSpec, ...]:
    """Those of `flow.py`, with their dead letters."""
    letters = {
        "retention.ms": str(flow.DEAD_LETTER_RETENTION_MS),
        "max.message.bytes": str(DEAD_LETTER_BYTES_MAX),
        **_kept(replication, durable=True),
    }
    return tuple(
        spec
        for topic in flow.TOPICS
        for spec in (
            TopicSpec(
                topic.name,
                topic.partitions,
                replication,
                {"retention.ms": str(topic.retention_ms), **_kept(replication, durable=True)},
            ),
            TopicSpec(topic.dead_letters, 1, replication, letters),
        )
    )


def upstream_topic(tenant: str, source: str, replication: int, *, durable: bool) -> TopicSpec:
    """`durable`: what a source's records are to be on disk before they are acknowledged."""
    return TopicSpec(
        flow.upstream_topic(tenant, source),
        flow.UPSTREAM_PARTITIONS,
        replication,
        {
            # Kept from their arrival on: an old record published again is not deleted at once.
            "retention.ms": str(flow.DAYS_7),
            "message.timestamp.type": "LogAppendTime",
            **_kept(replication, durable=durable),
        },
    )


def _kept(replication: int, *, durable: bool) -> dict[str, str]:
    """What a message must have survived when it is acknowledged.

    One broker syncs it to its disk: a power cut would take what only its memory holds. Three do
    not fail at once, so two of them having it is as good, and quicker.
    """
    if replication >= REPLICAS_THAT_SUFFICE:
        return {"min.insync.replicas": "2"}
    return {"flush.messages": "1" if durable else str(NEVER_FLUSHED)}
