"""A consumer whose group's offsets are kept with their proof, beside them in Kafka.

A committed offset alone would skip what comes after a log that lost its tail and grew again. Here
it is compared with the log at the start and after each change of leader, and reading goes on from
where the two have all in common: events come again rather than never.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from faststream.kafka import KafkaBroker

from libs.common.consuming import ConfinedConsumer
from libs.common.positions import Judged, judge
from libs.common.proof import UNKNOWN_EPOCH, Proof

# What the client takes for a group that is not ready yet: it asks for the offsets again.
_GROUP_LOADING = 14
OFFSET_MAX = 2**63 - 1

log = structlog.get_logger(__name__)


class ProvenConsumer(ConfinedConsumer):
    def __init__(self, *topics: str, **options: Any) -> None:
        super().__init__(*topics, **options)
        # Of the place up to which each partition was fetched.
        self._proofs: dict[TopicPartition, Proof] = {}

    async def _send(self, node_id: int, request: Any, **options: Any) -> Any:
        if isinstance(request, OffsetCommitRequest):
            request = self._with_proofs(request)
        response = await super()._send(node_id, request, **options)
        if isinstance(request, OffsetFetchRequest):
            await self._prove_committed(response)
        return response

    # Committed offsets.

    def _with_proofs(self, request: OffsetCommitRequest) -> OffsetCommitRequest:
        topics = [
            (
                topic,
                [
                    (partition, offset, self._proof_at(TopicPartition(topic, partition), offset))
                    for partition, offset, _ in partitions
                ],
            )
            for topic, partitions in request._topics  # pyright: ignore[reportPrivateUsage]
        ]
        request._topics = topics  # pyright: ignore[reportPrivateUsage]
        return request

    def _proof_at(self, place: TopicPartition, offset: int) -> str:
        proof = self._proofs.get(place, Proof())
        epoch = self.epoch_of(place, offset - 1)
        return _written(Proof(proof.topic_id, proof.leader_epoch if epoch < 0 else epoch))

    async def _prove_committed(self, response: Any) -> None:
        """Puts into the answer where to go on: what was committed, unless the log is another."""
        topics = []
        for topic, partitions in response.topics:
            proven = []
            for partition, offset, metadata, code in partitions:
                place = TopicPartition(topic, partition)
                try:
                    judged = await judge(self, place, max(offset, 0), _read(metadata))
                except KafkaError:
                    proven.append((partition, offset, metadata, code or _GROUP_LOADING))
                    continue
                self._proofs[place] = judged.proof
                if offset >= 0 and judged.kind != "same":
                    _tell(place, offset, judged)
                    offset = judged.offset
                proven.append((partition, offset, metadata, code))
            topics.append((topic, proven))
        response.topics = topics

    # While reading.

    async def _confine(self, request: FetchRequest, response: Any) -> None:
        before = {place: len(known) for place, known in self._epochs.items()}
        await super()._confine(request, response)
        doubted = self.take_doubted()
        offsets = {
            TopicPartition(topic, partition): offset
            for topic, partitions in request.topics
            for partition, offset, _ in partitions
        }
        for place, offset in offsets.items():
            proof = self._proofs.get(place, Proof())
            newest = self.epoch_of(place, OFFSET_MAX)
            changed = len(self._epochs.get(place, ())) != before.get(place, 0)
            other = changed and newest != proof.leader_epoch != UNKNOWN_EPOCH
            if (place in doubted or other) and not await self._still(place, offset, proof):
                continue
            if changed:
                self._proofs[place] = Proof(proof.topic_id, newest)

    async def _still(self, place: TopicPartition, offset: int, proof: Proof) -> bool:
        """Whether to read on where we are; else we are where the histories part, or ask again."""
        try:
            judged = await judge(self, place, offset, proof)
        except KafkaError:
            self.doubt(place)
            return False
        if judged.kind == "same" or place not in self.assignment():
            return True
        _tell(place, offset, judged)
        # The client drops what it was fetching: it is not from where it stands now.
        self.seek(place, judged.offset)
        self._proofs[place] = judged.proof
        self._epochs.pop(place, None)
        return False


class ProvenBroker(KafkaBroker):
    """FastStream's, with consumers that confine and prove what they read."""

    consumers: list[ProvenConsumer]

    async def _connect(self) -> Callable[..., Any]:
        await super()._connect()
        self.consumers = []
        config = self.config.broker_config
        options = config.builder.keywords  # pyright: ignore[reportFunctionMemberAccess]

        def build(*topics: str, **more: Any) -> ProvenConsumer:
            self.consumers.append(ProvenConsumer(*topics, **{**options, **more}))
            return self.consumers[-1]

        config.builder = build
        return build

    def troubles(self) -> list[str]:
        consumers = getattr(self, "consumers", [])
        return [trouble for each in consumers for trouble in each.troubles.values()]


def _tell(place: TopicPartition, offset: int, judged: Judged) -> None:
    log.error(
        "log_changed",
        topic=place.topic,
        partition=place.partition,
        kind=judged.kind,
        position=offset,
        read_on_from=judged.offset,
    )


def _written(proof: Proof) -> str:
    return f"{proof.topic_id}:{proof.leader_epoch}"


def _read(metadata: str | None) -> Proof:
    """The proof beside a committed offset; an unknown one beside those of other clients."""
    topic_id, _, epoch = (metadata or "").partition(":")
    try:
        return Proof(topic_id, int(epoch))
    except ValueError:
        return Proof()
