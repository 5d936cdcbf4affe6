"""The records of upstream systems, from Kafka into chunks: offsets come from the journal.

Kafka's own group offsets are never written. A partition that is assigned to this process, that
another replica took over, or whose commit failed, is handled in one way: drop what is buffered,
read the journal's position, seek there. Kafka decides only who works on a partition; the journal
decides what has been done.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterable
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from libs.common.errors import BasaltError, ConflictError, NotFoundError
from libs.common.kafka import KafkaAccess
from libs.common.publishing import stopped
from services.ingest.core.chunk import CHUNK_BYTES_MAX, CHUNK_ROWS_MAX
from services.ingest.core.intake import Intake
from services.ingest.core.streams import Position

GROUP = "ingest"
PATTERN = r"^upstream\..*"
# A new source's topic is noticed within this time.
METADATA_MS_MAX = 1_000
# Kafka's least: after it a killed replica's partitions go to the others.
SESSION_MS = 6_000
HEARTBEAT_MS = 1_500
PARTITION_FETCH_BYTES_MAX = 2 * 1024 * 1024
# A chunk is committed when it is full, when this old, or when nothing more came for a moment.
CHUNK_S_MAX = 1.0
CHUNK_IDLE_S = 0.1
# What all partitions together may hold before nothing more is read.
BUFFERED_BYTES_MAX = 64 * 1024 * 1024
COMMITS_AT_ONCE = 2
# A record's object, its headers and places in lists, beside its body.
RECORD_OVERHEAD_BYTES = 500
# A partition whose commit failed, or that belongs to no source yet, is looked at again after this.
AGAIN_S = 0.5
AGAIN_S_MAX = 5.0
STOP_S_MAX = 3.0
PROBLEMS_SHOWN_MAX = 5
# Records live for a moment, in great numbers and without cycles: looking for cycles among them
# after every 700 new objects, as Python does by itself, costs as much as reading them.
COLLECT_AFTER_OBJECTS = (200_000, 20, 20)

Record = ConsumerRecord[Any, Any]
log = structlog.get_logger(__name__)


class Partition:
    """One assigned partition: what is buffered of it, and the commit that is under way."""

    def __init__(self, place: TopicPartition) -> None:
        self.place = place
        self.position: Position | None = None  # None: to be read from the journal.
        self.records: list[Record] = []
        self.bytes = 0
        self.first_at = self.last_at = 0.0
        self.commit: asyncio.Task[None] | None = None
        self.look_at = 0.0
        self.pause_s = AGAIN_S
        self.problem = ""
        self.recreated_seen = False

    @property
    def full(self) -> bool:
        return len(self.records) >= CHUNK_ROWS_MAX or self.bytes >= CHUNK_BYTES_MAX

    @property
    def open(self) -> bool:
        return self.position is not None and not self.full

    def due(self, now: float) -> bool:
        if not self.records or self.commit is not None:
            return False
        aged = now - self.first_at >= CHUNK_S_MAX or now - self.last_at >= CHUNK_IDLE_S
        return self.full or aged

    def take(self, records: Iterable[Record], now: float) -> None:
        if self.position is None:
            return  # They will be read again from where the journal says.
        following = self.records[-1].offset + 1 if self.records else self.position.state.next_offset
        fresh = [record for record in records if record.offset >= following]
        if fresh:
            self.first_at = self.first_at if self.records else now
            self.last_at = now
            self.records += fresh
            self.bytes += sum(len(each.value or b"") for each in fresh)
            self.bytes += RECORD_OVERHEAD_BYTES * len(fresh)

    def hand_over(self) -> list[Record]:
        """At most a chunk's rows; what is more waits for the next one."""
        chunk, self.records = self.records[:CHUNK_ROWS_MAX], self.records[CHUNK_ROWS_MAX:]
        self.bytes = sum(len(each.value or b"") + RECORD_OVERHEAD_BYTES for each in self.records)
        return chunk

    def forget(self, problem: str = "", *, at_once: bool = False) -> None:
        """Starts over from the journal; after a failure not before a pause."""
        self.position, self.records, self.bytes = None, [], 0
        self.problem = problem
        self.look_at = 0.0 if at_once else time.monotonic() + self.pause_s
        self.pause_s = min(self.pause_s * 2, AGAIN_S_MAX)

    def succeeded(self, position: Position) -> None:
        self.position, self.problem, self.pause_s = position, "", AGAIN_S
        self.recreated_seen = False


class KafkaRecords(ConsumerRebalanceListener):
    """A part of the runtime. Without Kafka it keeps trying, and says so in `problem`."""

    name = "records"

    def __init__(self, access: KafkaAccess, intake: Intake) -> None:
        self._access = access
        self._intake = intake
        self._partitions: dict[TopicPartition, Partition] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._problem = ""

    @property
    def problem(self) -> str:
        found = {self._problem, *(each.problem for each in self._partitions.values())} - {""}
        shown = sorted(found)[:PROBLEMS_SHOWN_MAX]
        more = len(found) - len(shown)
        return " ".join([*shown, f"And {more} more."] if more else shown)

    async def start(self) -> None:
        gc.set_threshold(*COLLECT_AFTER_OBJECTS)
        self._task = asyncio.create_task(self._live(), name="records")

    async def stop(self) -> None:
        """What is buffered is committed if that is quick; else it will be read again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drain(), STOP_S_MAX)
        await self._close()

    async def _live(self) -> None:
        pause_s = AGAIN_S
        while True:
            try:
                await self._open()
                self._problem, pause_s = "", AGAIN_S
                await self._consume()
            except (KafkaError, OSError, BasaltError) as error:
                self._problem = f"Upstream records are not being read: {error}."
                log.warning("records_failed", error=repr(error), again_in_s=pause_s)
            except Exception as error:
                self._problem = f"Upstream records are not being read: {type(error).__name__}."
                log.exception("records_fault", again_in_s=pause_s)
            await self._close()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, AGAIN_S_MAX)

    async def _open(self) -> None:
        await self._intake.sources.ensure_topics()
        consumer = AIOKafkaConsumer(
            **self._access.for_aiokafka(),
            client_id="ingest-records",
            group_id=GROUP,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            metadata_max_age_ms=METADATA_MS_MAX,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=HEARTBEAT_MS,
            max_partition_fetch_bytes=PARTITION_FETCH_BYTES_MAX,
        )
        self._consumer = consumer
        consumer.subscribe(pattern=PATTERN, listener=self)
        await consumer.start()

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(stopped(consumer.stop()), STOP_S_MAX)
                # A stop that ended early leaves it open, asking for metadata for ever.
                await consumer._client.close()  # pyright: ignore[reportPrivateUsage]
        await self.on_partitions_revoked(self._partitions)

    # Assignment.

    # aiokafka awaits coroutines as well as it calls functions.
    async def on_partitions_revoked(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, revoked: Iterable[TopicPartition]
    ) -> None:
        commits = [each.commit for each in self._partitions.values() if each.commit]
        self._partitions = {}
        # Whoever gets the partition goes on from the journal, so let it be as far as it can.
        if commits:
            await asyncio.wait(commits, timeout=STOP_S_MAX)

    async def on_partitions_assigned(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, assigned: Iterable[TopicPartition]
    ) -> None:
        self._partitions = {place: Partition(place) for place in assigned}

    async def _seek(self, consumer: AIOKafkaConsumer) -> None:
        """Brings partitions without a position to where the journal says."""
        now = time.monotonic()
        waiting = [
            each
            for each in self._partitions.values()
            if each.position is None and each.commit is None and now >= each.look_at
        ]
        if not waiting:
            return
        ends = await consumer.end_offsets([each.place for each in waiting])
        for partition in waiting:
            try:
                place = partition.place
                position = await self._intake.position(place.topic, place.partition)
                if position.state.next_offset > ends[place]:
                    position = await self._recreated(consumer, partition, position)
                if position is not None:
                    consumer.seek(place, position.state.next_offset)
                    partition.position = position
            except NotFoundError:
                name = partition.place.topic
                partition.forget(f"The topic {name} belongs to no source: its records wait there.")
            except BasaltError as error:
                partition.forget(str(error))
            except IllegalStateError:
                # A rebalance took it away meanwhile.
                partition.forget()

    async def _recreated(
        self, consumer: AIOKafkaConsumer, partition: Partition, position: Position
    ) -> Position | None:
        """The topic ends before the journal's offset: made anew, once a second look agrees."""
        place = partition.place
        log.warning("topic_recreated", topic=place.topic, partition=place.partition)
        if not partition.recreated_seen:
            partition.recreated_seen = True
            partition.forget(f"The topic {place.topic} ends before what was read of it.")
            return None
        beginning = await consumer.beginning_offsets([place])
        return await self._intake.restart(position, beginning[place])

    # Reading and committing.

    async def _consume(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        while True:
            await self._seek(consumer)
            self._commit_due()
            open_ = [each for each in self._partitions.values() if each.open]
            held = sum(each.bytes for each in self._partitions.values())
            if self._partitions and (not open_ or held >= BUFFERED_BYTES_MAX):
                await self._wait_for_a_commit()
                continue
            places = [each.place for each in open_]
            batches = await consumer.getmany(*places, timeout_ms=round(CHUNK_IDLE_S * 1_000))
            now = time.monotonic()
            for place, records in batches.items():
                partition = self._partitions.get(place)
                if partition is not None:
                    partition.take(records, now)

    def _commit_due(self) -> None:
        now = time.monotonic()
        running = sum(each.commit is not None for each in self._partitions.values())
        pressed = sum(each.bytes for each in self._partitions.values()) >= BUFFERED_BYTES_MAX
        # The fullest first, so that memory is freed soonest.
        for partition in sorted(self._partitions.values(), key=lambda each: -each.bytes):
            if running >= COMMITS_AT_ONCE:
                return
            idle = partition.records and partition.commit is None
            if partition.due(now) or (pressed and idle):
                partition.commit = asyncio.create_task(self._commit(partition))
                running += 1

    async def _wait_for_a_commit(self) -> None:
        commits = [each.commit for each in self._partitions.values() if each.commit]
        if commits:
            await asyncio.wait(commits, timeout=CHUNK_S_MAX, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(CHUNK_IDLE_S)

    async def _commit(self, partition: Partition) -> None:
        position = partition.position
        try:
            if position is not None:
                partition.succeeded(await self._intake.commit(position, partition.hand_over()))
        except ConflictError:
            log.info("partition_overtaken", topic=partition.place.topic)
            partition.forget(at_once=True)
        except BasaltError as error:
            # The outcome may be unknown: the journal knows it.
            log.warning("commit_failed", topic=partition.place.topic, error=str(error))
            partition.forget(str(error))
        except Exception as error:
            log.exception("commit_fault", topic=partition.place.topic)
            partition.forget(f"A chunk could not be committed: {type(error).__name__}.")
        finally:
            partition.commit = None

    async def _drain(self) -> None:
        """Commits what is buffered, before the partitions are given back."""
        while commits := [each.commit for each in self._partitions.values() if each.commit]:
            await asyncio.wait(commits)
        await asyncio.gather(
            *(self._commit(each) for each in self._partitions.values() if each.records)
        )
