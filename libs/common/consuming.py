"""A Kafka consumer in which one partition's trouble is that partition's alone.

What cannot be opened comes as a record that says so (`unreadable.py`); what the broker answers
instead of records is in `troubles`, by partition, until that partition is read again. The client
by itself raises both to whoever reads, and none of its partitions goes on.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError, for_code
from aiokafka.protocol.fetch import FetchRequest

from libs.common.batches import BATCH_BYTES_MAX, Opened, open_batches
from libs.common.proof import UNKNOWN_EPOCH

# Of all partitions together, as it travels; a single batch may be larger.
FETCH_BYTES_MAX = 16 * 1024 * 1024
# How long a broker that answers with errors alone is left in peace.
ERROR_PAUSE_S = 0.2
# Fetches that were opened before one of them turned out to hold a record that cannot be read.
BROKEN_IN_A_ROW_MAX = 20
# Changes of leader that are remembered of each partition.
EPOCHS_KEPT_MAX = 100
NO_ERROR, OFFSET_OUT_OF_RANGE, TOPIC_AUTHORIZATION_FAILED = 0, 1, 29
# The one would stop every partition; at the other it goes to the log's beginning and tells nobody.
_NOT_FOR_THE_CLIENT = frozenset({OFFSET_OUT_OF_RANGE, TOPIC_AUTHORIZATION_FAILED})
# What the client takes for a reason to ask again, and for nothing else.
_ASK_AGAIN = 7
_COMPRESSED_AT = 22  # The byte of a batch that tells its codec.

log = structlog.get_logger(__name__)


class ConfinedConsumer(AIOKafkaConsumer):
    def __init__(self, *topics: str, **options: Any) -> None:
        # Checksums are looked at where a wrong one does no harm.
        confined = {"check_crcs": False, "fetch_max_bytes": FETCH_BYTES_MAX}
        super().__init__(*topics, **{**options, **confined})
        self.troubles: dict[TopicPartition, str] = {}
        # Whose positions have to be proven anew: after an error the log may be another one.
        self._doubted: set[TopicPartition] = set()
        self._epochs: dict[TopicPartition, list[tuple[int, int]]] = {}
        self._careful = False
        # The one place where answers can be seen before the client opens them.
        self._ask = self._client.send
        self._client.send = self._send  # pyright: ignore[reportAttributeAccessIssue]

    def doubt(self, place: TopicPartition) -> None:
        self._doubted.add(place)

    def take_doubted(self) -> set[TopicPartition]:
        """The partitions that were not answered with records since this was asked last."""
        doubted, self._doubted = self._doubted, set()
        return doubted

    def epoch_of(self, place: TopicPartition, offset: int) -> int:
        """The leader epoch of a record that was read; UNKNOWN_EPOCH of others."""
        known = self._epochs.get(place, ())
        return next((epoch for first, epoch in reversed(known) if first <= offset), UNKNOWN_EPOCH)

    # Reading.

    async def getone(self, *partitions: TopicPartition) -> ConsumerRecord[Any, Any]:
        for _ in range(BROKEN_IN_A_ROW_MAX):
            try:
                return await super().getone(*partitions)
            except Exception as error:
                self._look_closely(error)
        return await super().getone(*partitions)

    async def getmany(
        self,
        *partitions: TopicPartition,
        timeout_ms: int = 0,
        max_records: int | None = None,
    ) -> dict[TopicPartition, list[ConsumerRecord[Any, Any]]]:
        before = self._positions()
        try:
            return await super().getmany(
                *partitions, timeout_ms=timeout_ms, max_records=max_records
            )
        except Exception as error:
            self._look_closely(error)
        # What it had read of other partitions is gone with the error.
        for place, offset in before.items():
            if place in self.assignment():
                self.seek(place, offset)
        return {}

    def _look_closely(self, error: Exception) -> None:
        """From now on each record is looked at before the client reads it. Raises other errors."""
        ours = isinstance(error, ValueError) or not isinstance(error, (KafkaError, RuntimeError))
        if not (ours or isinstance(error, CorruptRecordException)):
            raise error
        log.warning("record_unreadable", error=repr(error)[:500])
        self._careful = True

    def _positions(self) -> dict[TopicPartition, int]:
        subscription = self._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        if assignment is None:
            return {}
        states = {place: assignment.state_value(place) for place in assignment.tps}
        return {place: each.position for place, each in states.items() if each.has_valid_position}

    # Between the broker and the client.

    async def _send(self, node_id: int, request: Any, **options: Any) -> Any:
        response = await self._ask(node_id, request, **options)
        if isinstance(request, FetchRequest):
            try:
                await self._confine(request, response)
            except Exception as error:
                # Whatever this is, it must not end the loop that fetches for all partitions.
                log.exception("fetch_fault")
                for topic, partitions in request.topics:
                    for partition, offset, _ in partitions:
                        self._note(
                            TopicPartition(topic, partition), f"a {type(error).__name__}", offset
                        )
                response.topics = []
                await asyncio.sleep(ERROR_PAUSE_S)
        return response

    async def _confine(self, request: FetchRequest, response: Any) -> None:
        """Puts into an answer only what the client can open."""
        offsets = {
            TopicPartition(topic, partition): offset
            for topic, partitions in request.topics
            for partition, offset, _ in partitions
        }
        budget_bytes, topics, failed = BATCH_BYTES_MAX, [], False
        for topic, partitions in response.topics:
            confined = []
            for partition, code, end, *others, content in partitions:
                place = TopicPartition(topic, partition)
                answered, opened = code, Opened()
                if code == NO_ERROR:
                    opened = await self._opened(place, content, offsets[place], end, budget_bytes)
                    budget_bytes = max(0, budget_bytes - len(opened.content))
                    self._note(place, opened.stuck, offsets[place])
                    self._learn(place, opened.epochs)
                else:
                    answered = self._refused(place, code)
                failed |= code != NO_ERROR or bool(opened.stuck)
                confined.append((partition, answered, end, *others, opened.content))
            topics.append((topic, confined))
        response.topics = topics
        if failed and not any(each[-1] for _, partitions in topics for each in partitions):
            await asyncio.sleep(ERROR_PAUSE_S)

    async def _opened(
        self, place: TopicPartition, content: bytes | None, offset: int, end: int, budget: int
    ) -> Opened:
        if not content:
            return Opened()
        options: dict[str, Any] = {
            "offset": offset,
            "end": end,
            "budget_bytes": budget,
            "careful": self._careful,
        }
        try:
            # Decompression takes long enough for others to wait.
            if len(content) > _COMPRESSED_AT and content[_COMPRESSED_AT] & 7:
                opened = await asyncio.to_thread(open_batches, content, **options)
            else:
                opened = open_batches(content, **options)
        except Exception as error:
            log.exception("batches_fault", topic=place.topic, partition=place.partition)
            return Opened(stuck=f"opening it failed with {type(error).__name__}")
        for each in opened.unreadable:
            log.warning(
                "log_unreadable",
                topic=place.topic,
                partition=place.partition,
                offsets=each.offsets,
                why=each.detail,
            )
        return opened

    def _learn(self, place: TopicPartition, epochs: list[tuple[int, int]]) -> None:
        known = self._epochs.setdefault(place, [])
        for first, epoch in epochs:
            while known and known[-1][0] >= first:
                known.pop()  # Read again, of another history perhaps.
            if not known or known[-1][1] != epoch:
                known.append((first, epoch))
        del known[:-EPOCHS_KEPT_MAX]

    def _note(self, place: TopicPartition, stuck: str, offset: int) -> None:
        if not stuck:
            self.troubles.pop(place, None)
        else:
            self.troubles[place] = (
                f"{place.topic}/{place.partition} cannot be read on from offset {offset}: {stuck}."
            )

    def _refused(self, place: TopicPartition, code: int) -> int:
        """Notes what Kafka refuses; the error to give to the client in its place."""
        error = for_code(code)
        self.troubles[place] = (
            f"{place.topic}/{place.partition} cannot be read: Kafka answers {error.__name__}."
        )
        self.doubt(place)
        return _ASK_AGAIN if code in _NOT_FOR_THE_CLIENT else code
