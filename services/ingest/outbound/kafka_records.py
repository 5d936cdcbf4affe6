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

import structlog
from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from libs.common import flow
from libs.common.consuming import ConfinedConsumer
from libs.common.errors import BasaltError, ConflictError, NotFoundError
from libs.common.history import Mended
from libs.common.kafka import HEARTBEAT_MS, SESSION_MS, KafkaAccess
from libs.common.positions import Judged, judge
from libs.common.proof import UNKNOWN_EPOCH, Proof
from libs.common.publishing import stopped
from libs.common.runtime import ended, lasting
from libs.common.unreadable import Unreadable, unreadable
from services.ingest.core.intake import Intake
from services.ingest.outbound.partition import (
    AGAIN_S,
    AGAIN_S_MAX,
    CHUNK_IDLE_S,
    CHUNK_S_MAX,
    Partition,
    Record,
)

PATTERN = r"^upstream\..*"
# A new source's topic is noticed within this time.
METADATA_MS_MAX = 1_000
PARTITION_FETCH_BYTES_MAX = 2 * 1024 * 1024
# What all partitions together may hold before nothing more is read.
BUFFERED_BYTES_MAX = 32 * 1024 * 1024
COMMITS_AT_ONCE = 2
# So many are opened in one go, however many wait.
RECORDS_AT_ONCE = 20_000
STOP_S_MAX = 3.0
PROBLEMS_SHOWN_MAX = 5
LEFT_ALONE = "belongs to no source: its records wait there."
# Records live for a moment, in great numbers and without cycles: looking for cycles among them
# after every 700 new objects, as Python does by itself, costs as much as reading them.
COLLECT_AFTER_OBJECTS = (200_000, 20, 20)

log = structlog.get_logger(__name__)


class KafkaRecords(ConsumerRebalanceListener):
    """A part of the runtime. Without Kafka it keeps trying, and says so in `problem`."""

    name = "records"

    def __init__(self, access: KafkaAccess, intake: Intake, mended: Mended) -> None:
        self._mended = mended
        self._access = access
        self._intake = intake
        self._partitions: dict[TopicPartition, Partition] = {}
        self._consumer: ConfinedConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._problem = ""
        # What could not be read last, until a record that can be has come after it.
        self._gaps: dict[TopicPartition, str] = {}

    @property
    def problem(self) -> str:
        """What is wrong comes before topics that are left alone, however many they are."""
        troubles = self._consumer.troubles.values() if self._consumer is not None else ()
        own = (each.problem for each in self._partitions.values())
        found = {self._problem, *own, *self._gaps.values(), *troubles} - {""}
        shown = sorted(found, key=lambda said: (said.endswith(LEFT_ALONE), said))
        shown = shown[:PROBLEMS_SHOWN_MAX]
        more = len(found) - len(shown)
        return " ".join([*shown, f"And {more} more."] if more else shown)

    async def start(self) -> None:
        gc.set_threshold(*COLLECT_AFTER_OBJECTS)
        self._task = lasting(self._live(), "records")

    async def stop(self) -> None:
        """What is buffered is committed if that is quick; else it will be read again."""
        await ended(self._task)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drain(), STOP_S_MAX)
        await self._close()

    async def _live(self) -> None:
        pause_s = AGAIN_S
        while True:
            try:
                await self._open()
                pause_s = AGAIN_S
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
        consumer = ConfinedConsumer(
            **self._access.for_aiokafka(),
            client_id="ingest-records",
            group_id=flow.UPSTREAM_GROUP,
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
        self._gaps = {place: gap for place, gap in self._gaps.items() if place in self._partitions}

    async def _seek(self, consumer: ConfinedConsumer) -> None:
        """Brings partitions without a position to where the journal says."""
        now = time.monotonic()
        waiting = [
            each
            for each in self._partitions.values()
            if each.position is None and each.commit is None and now >= each.look_at
        ]
        if not waiting:
            return
        for partition in waiting:
            try:
                await self._prove(consumer, partition)
            except NotFoundError:
                name = partition.place.topic
                partition.forget(f"The topic {name} {LEFT_ALONE}")
            except BasaltError as error:
                partition.forget(str(error))
            except IllegalStateError:
                # A rebalance took it away meanwhile.
                partition.forget()
            except KafkaError as error:
                place = partition.place
                partition.forget(f"{place.topic}/{place.partition} cannot be read: {error!r}.")

    def _doubt(self, consumer: ConfinedConsumer) -> None:
        """Kafka answered with something else than records: they may be others from now on."""
        for place in consumer.take_doubted():
            partition = self._partitions.get(place)
            if partition is not None and partition.commit is not None:
                consumer.doubt(place)  # Once it is known where the commit leaves it.
            elif partition is not None and partition.position is not None:
                partition.forget()

    async def _prove(self, consumer: ConfinedConsumer, partition: Partition) -> None:
        """Seeks to the journal's position, or to where its log and Kafka's part."""
        place = partition.place
        position = await self._intake.position(place.topic, place.partition)
        state = position.state
        judged = await judge(consumer, place, state.next_offset, state.proof)
        if judged.kind in ("shorter", "recreated"):
            log.error("log_changed", topic=place.topic, partition=place.partition, kind=judged.kind)
            self._gaps[place] = _changed(place, judged, state.next_offset)
            position = await self._intake.restart(position, judged.offset, judged.proof)
            self._mended.mended("kafka", "log changed", self._gaps[place])
        consumer.seek(place, judged.offset)
        partition.position, partition.topic_id = position, judged.proof.topic_id
        if judged.kind == "expired":
            partition.take([_expired(place, state.next_offset, judged.offset)], time.monotonic())

    async def _still(self, consumer: ConfinedConsumer, partition: Partition, proof: Proof) -> bool:
        """Whether records of another leader follow the position without a break."""
        state = partition.position.state if partition.position is not None else None
        if state is None or state.leader_epoch in (UNKNOWN_EPOCH, proof.leader_epoch):
            return True
        judged = await judge(consumer, partition.place, state.next_offset, state.proof)
        return judged.kind in ("same", "expired")

    # Reading and committing.

    async def _consume(self) -> None:
        consumer = self._consumer
        if consumer is None:
            return
        while True:
            self._doubt(consumer)
            await self._seek(consumer)
            self._commit_due()
            open_ = [each for each in self._partitions.values() if each.open]
            held = sum(each.bytes for each in self._partitions.values())
            if self._partitions and (not open_ or held >= BUFFERED_BYTES_MAX):
                await self._wait_for_a_commit()
                continue
            places = [each.place for each in open_]
            batches = await consumer.getmany(
                *places, timeout_ms=round(CHUNK_IDLE_S * 1_000), max_records=RECORDS_AT_ONCE
            )
            now = time.monotonic()
            # Only having read clears what kept us from it.
            self._problem = ""
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
        position, consumer = partition.position, self._consumer
        try:
            if position is not None:
                records = partition.hand_over()
                proof = self._proof(partition, records)
                if consumer is not None and not await self._still(consumer, partition, proof):
                    partition.forget(at_once=True)
                    return
                partition.succeeded(await self._intake.commit(position, records, proof))
                self._note(partition.place, records)
        except ConflictError:
            partition.forget(at_once=True)
            log.info("partition_overtaken", topic=partition.place.topic)
        except BasaltError as error:
            # The outcome may be unknown: the journal knows it.
            partition.forget(str(error))
            log.warning("commit_failed", topic=partition.place.topic, error=str(error))
        except Exception as error:
            partition.forget(f"A chunk could not be committed: {type(error).__name__}.")
            log.exception("commit_fault", topic=partition.place.topic)
        finally:
            partition.commit = None

    def _proof(self, partition: Partition, records: list[Record]) -> Proof:
        epoch = UNKNOWN_EPOCH
        if self._consumer is not None:
            epoch = self._consumer.epoch_of(partition.place, records[-1].offset)
        if epoch == UNKNOWN_EPOCH and partition.position is not None:
            epoch = partition.position.state.leader_epoch
        return Proof(partition.topic_id, epoch)

    def _note(self, place: TopicPartition, taken: list[Record]) -> None:
        """Whether the last of the records that were taken in could be read."""
        gap = unreadable(taken[-1].headers)
        if gap is None:
            self._gaps.pop(place, None)
            return
        self._gaps[place] = (
            f"{place.topic}/{place.partition} could not be read at {gap.offsets}. {gap.detail}"
            " What could be read of it is held: `basalt quarantine list`."
        )

    async def _drain(self) -> None:
        """Commits what is buffered, before the partitions are given back."""
        while commits := [each.commit for each in self._partitions.values() if each.commit]:
            await asyncio.wait(commits)
        await asyncio.gather(
            *(self._commit(each) for each in self._partitions.values() if each.records)
        )


def _changed(place: TopicPartition, judged: Judged, position: int) -> str:
    what = "was made anew" if judged.kind == "recreated" else "lost its end"
    return (
        f"The log of {place.topic}/{place.partition} {what}: {position} records of it were read."
        f" It is read again from offset {judged.offset}; nothing is taken in twice."
    )


def _expired(place: TopicPartition, first: int, next_offset: int) -> Record:
    """Stands in for records that Kafka deleted before they were read."""
    about = Unreadable(
        first, next_offset - 1, "Its records were deleted by their retention before they were read."
    )
    return ConsumerRecord(
        topic=place.topic,
        partition=place.partition,
        offset=about.last,
        timestamp=0,
        timestamp_type=0,
        key=None,
        value=b"",
        checksum=None,
        serialized_key_size=-1,
        serialized_value_size=0,
        headers=[about.header()],
    )
