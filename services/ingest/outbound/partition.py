"""One partition of an upstream topic: what is buffered of it until it is a chunk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from aiokafka import ConsumerRecord, TopicPartition

from services.ingest.core.chunk import record_bytes
from services.ingest.core.limits import CHUNK_BYTES_MAX, CHUNK_ROWS_MAX
from services.ingest.core.streams import Position

# A chunk is committed when it is full, when this old, or when nothing more came for a moment.
CHUNK_S_MAX = 1.0
CHUNK_IDLE_S = 0.1
# A record's object, its headers and places in lists, beside its body.
RECORD_OVERHEAD_BYTES = 500
# A partition whose commit failed, or that belongs to no source yet, is looked at again after this.
AGAIN_S = 0.5
AGAIN_S_MAX = 5.0

Record = ConsumerRecord[Any, Any]


def _weight(record: Record) -> int:
    return record_bytes(record) + RECORD_OVERHEAD_BYTES


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
        self.topic_id = ""

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
            self.bytes += sum(map(_weight, fresh))

    def hand_over(self) -> list[Record]:
        """At most a chunk's rows and bytes; what is more waits for the next one."""
        count, weight = 0, 0
        for record in self.records[:CHUNK_ROWS_MAX]:
            weight += _weight(record)
            if count and weight > CHUNK_BYTES_MAX:
                weight -= _weight(record)
                break
            count += 1
        chunk, self.records = self.records[:count], self.records[count:]
        self.bytes -= weight
        return chunk

    def forget(self, problem: str = "", *, at_once: bool = False) -> None:
        """Starts over from the journal; after a failure not before a pause."""
        self.position, self.records, self.bytes = None, [], 0
        self.problem = problem
        self.look_at = 0.0 if at_once else time.monotonic() + self.pause_s
        self.pause_s = min(self.pause_s * 2, AGAIN_S_MAX)

    def succeeded(self, position: Position) -> None:
        self.position, self.problem, self.pause_s = position, "", AGAIN_S
