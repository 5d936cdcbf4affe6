"""Takes the records of one partition of an upstream topic in, exactly once.

A chunk's objects are put first, by their digests; then one journal entry commits them together
with the offsets that they cover. Whoever dies before the entry has done nothing, and who comes
second collides with the entry's version: it drops what it holds and goes on from the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from opentelemetry.trace import SpanKind

from libs.common import flow, telemetry
from libs.common.clock import Clock
from libs.common.errors import ConflictError
from libs.common.journal import Journal
from libs.common.proof import Proof
from libs.common.stores.ports import CauseSeenError, VersionTakenError
from services.ingest.core.chunk import content_digest, gather, read_held
from services.ingest.core.moments import microseconds
from services.ingest.core.sources import Sources
from services.ingest.core.streams import (
    UNPROVEN,
    Committed,
    Position,
    Streams,
    change,
    committed,
    position_of,
    stream,
)
from services.ingest.ports import UpstreamRecord

BY = "service:ingest"
# 32 bytes each, of a stream that began anew.
HELD_KNOWN_MAX = 100_000
STREAMS_KNOWN_MAX = 100
AHEAD_S_MAX = 86_400.0

Notice = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Intake:
    """`notice` is told tenant and source of each chunk; it must not block."""

    journal: Journal
    streams: Streams
    sources: Sources
    notice: Notice
    clock: Clock
    # How far ahead of the clock an event's time may be.
    ahead_s_max: float = AHEAD_S_MAX
    # Of streams that began anew: the epoch, and what was held before it.
    _known: dict[str, tuple[int, frozenset[bytes]]] = field(default_factory=dict)

    async def position(self, topic: str, partition: int) -> Position:
        """Where to go on. Raises NotFoundError while the topic belongs to no source."""
        tenant, source = flow.upstream_names(topic)
        await self.sources.get(tenant, source)
        return await self.streams.position(tenant, source, str(partition))

    async def commit(
        self, position: Position, records: Sequence[UpstreamRecord], proof: Proof = UNPROVEN
    ) -> Position:
        """Commits the records that follow the position, in the order of their offsets.

        `proof` is that of the place after them.

        Raises ConflictError when another replica has taken the partition over, and DependencyError
        when it is not known whether the entry is there: read the position again either way.
        """
        tenant, source, partition = position.tenant, position.source, position.partition
        topic = flow.upstream_topic(tenant, source)
        terms = await self.sources.terms(tenant, source)
        known = await self._held_before(position)
        origin = f"{topic}/{partition}"
        latest_us = microseconds(self.clock.now() + timedelta(seconds=self.ahead_s_max))
        gathered = await asyncio.to_thread(gather, terms.checker, records, origin, known, latest_us)
        first, *others = gathered.traceparents or [""]
        with telemetry.span(
            "commit chunk",
            SpanKind.CONSUMER,
            under=first,
            links=tuple(others),
            messaging_system="kafka",
            messaging_destination_name=topic,
            messaging_batch_message_count=len(records),
            basalt_tenant=tenant,
            basalt_dataset=source,
        ):
            chunks, held = await self.streams.store(tenant, gathered)
            state = position.after(
                next_offset=records[-1].offset + 1,
                contract_revision=terms.revision,
                chunks=chunks,
                held=held,
                reasons=gathered.reasons,
                examples=gathered.examples,
                traceparent=telemetry.traceparent(),
                proof=proof,
            )
            cause = f"{state.epoch}:{records[0].offset}"
            return await self._append(position, cause, "ChunkCommitted", state)

    async def restart(self, position: Position, offset: int, proof: Proof = UNPROVEN) -> Position:
        """Begins a new epoch: the log became another one, and offsets mean other records now.

        What was taken in before stays. An event that comes again is known by its identity, and a
        record that was held by its content.
        """
        state = position.state.model_copy(
            update={
                "next_offset": offset,
                "epoch": position.state.epoch + 1,
                "topic_id": proof.topic_id,
                "leader_epoch": proof.leader_epoch,
                "chunks": (),
                "held": (),
                "earlier_held": position.version
                if position.state.held
                else position.state.earlier_held,
                "reasons": {},
                "examples": (),
                "traceparent": "",
            }
        )
        return await self._append(position, f"epoch:{state.epoch}", "StreamRestarted", state)

    async def _held_before(self, position: Position) -> frozenset[bytes]:
        """The contents of what was held in earlier epochs; the newest HELD_KNOWN_MAX of them."""
        epoch = position.state.epoch
        if epoch == 0:
            return frozenset()
        name = stream(position.tenant, position.source, position.partition)
        if self._known.get(name, (0, frozenset()))[0] != epoch:
            if len(self._known) >= STREAMS_KNOWN_MAX:
                self._known.clear()
            self._known[name] = epoch, await self._contents(position)
        return self._known[name][1]

    async def _contents(self, position: Position) -> frozenset[bytes]:
        contents: set[bytes] = set()
        version = position.version if position.state.held else position.state.earlier_held
        while version and len(contents) < HELD_KNOWN_MAX:
            entry = await self.streams.at(
                position.tenant, position.source, position.partition, version
            )
            if entry is None:
                break
            state = committed(entry)
            if state.epoch < position.state.epoch:
                for chunk in state.held:
                    parquet = await self.streams.read(position.tenant, "held", chunk.sha256)
                    held = await asyncio.to_thread(read_held, parquet)
                    contents.update(content_digest(each) for each in held)
            version = state.earlier_held
        return frozenset(contents)

    async def _append(
        self, position: Position, cause: str, type_: str, state: Committed
    ) -> Position:
        tenant, source, partition = position.tenant, position.source, position.partition
        name = stream(tenant, source, partition)
        try:
            entry = await self.journal.append(
                name, position.version, cause, change(type_, state), by=BY
            )
        except (VersionTakenError, CauseSeenError) as error:
            raise ConflictError(
                f"Another replica took {name} over.",
                which=name,
                next_step="Read its position again.",
            ) from error
        self.notice(tenant, source)
        return position_of(entry, tenant, source, partition)
