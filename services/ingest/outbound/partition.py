"""One partition of an upstream topic: what is buffered of it until it is a chunk."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
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


class Partition:
    """One assigned partition: what is buffered of it, and the commit that is under way."""

    def __init__(self, place: TopicPartition) -> None:
        self.place = place
        self.position: Position | None = None  # None: to be read from the journal.
        self.records: list[Record] = []
        self._sizes: list[int] = []  # Of the records, in their order.
        self._content = 0
        self.first_at = self.last_at = 0.0
        self.commit: asyncio.Task[None] | None = None
        self.look_at = 0.0
        self.pause_s = AGAIN_S
        self.problem = ""
        self.topic_id = ""

    @property
    def bytes(self) -> int:
        """Of memory, roughly."""
        return self._content + RECORD_OVERHEAD_BYTES * len(self.records)

    @property
    def full(self) -> bool:
        return len(self.records) >= CHUNK_ROWS_MAX or self._content >= CHUNK_BYTES_MAX

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
            sizes = list(map(record_bytes, fresh))
            self.records += fresh
            self._sizes += sizes
            self._content += sum(sizes)

    def hand_over(self) -> list[Record]:
        """At most a chunk's rows and bytes; what is more waits for the next one."""
        upto = list(accumulate(self._sizes[:CHUNK_ROWS_MAX]))
        # One record alone may be more.
        count = max(bisect_right(upto, CHUNK_BYTES_MAX), min(len(upto), 1))
        chunk, self.records = self.records[:count], self.records[count:]
        self._sizes = self._sizes[count:]
        self._content -= upto[count - 1] if count else 0
        return chunk

    def forget(self, problem: str = "", *, at_once: bool = False) -> None:
        """Starts over from the journal; after a failure not before a pause."""
        self.position, self.records, self._sizes, self._content = None, [], [], 0
        self.problem = problem
        self.look_at = 0.0 if at_once else time.monotonic() + self.pause_s
        self.pause_s = min(self.pause_s * 2, AGAIN_S_MAX)

    def succeeded(self, position: Position) -> None:
        self.position, self.problem, self.pause_s = position, "", AGAIN_S
