"""What can be done about records in quarantine: mend them, send them in again, or discard them.

Records leave a lot in three steps, so that whoever dies between two has neither lost nor doubled
any: an entry of the lot's resolution claims them and names the rows that go in; an entry of the
stream of replays, whose cause is that claim, sends them in and counts; an entry of the resolution
says that they have left. Whoever comes to a lot with a claim finishes that first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from libs.common import telemetry
from libs.common.clock import Clock
from libs.common.errors import ConflictError, InvalidInputError, LimitError, PreconditionError
from libs.common.journal import Change, Journal
from libs.common.stores.ports import CauseSeenError, Entry, ObjectStore, VersionTakenError
from services.ingest.core import changes, fitness, numbers
from services.ingest.core.chunk import StoredChunk, digest, gather_rows
from services.ingest.core.intake import Notice
from services.ingest.core.limits import MENDED_BYTES_MAX
from services.ingest.core.quarantine import Filter, Lot, Quarantine, Quarantined
from services.ingest.core.resolution import (
    WAITING,
    Leaving,
    Resolution,
    State,
    Way,
    resolution_of,
    written_bodies,
)
from services.ingest.core.sources import Sources
from services.ingest.core.streams import REPLAY, Streams, change, position_of, stream
from services.ingest.core.violation import WITHOUT_A_ROW

EXAMPLES_MAX = 3
IDS_MAX = 1_000
# Each that is lost was won by somebody, who may have to be finished for.
TRIES_MAX, LOST_RACE_S_MAX = 60, 0.02


@dataclass(slots=True)
class Progress:
    """How far a call that does something about many records has come.

    done     records that were mended, sent in or discarded
    unfit    records that stay as they were, and why the first of them do
    """

    done: int = 0
    unfit: int = 0
    examples: list[str] = field(default_factory=list)

    def stay(self, lot: Lot, unfit: Mapping[int, str]) -> None:
        """Notes why some of a lot's records stay."""
        self.unfit += len(unfit)
        for number, why in itertools.islice(unfit.items(), EXAMPLES_MAX - len(self.examples)):
            self.examples.append(f"{lot.id_of(number)}: {why}")


@dataclass(frozen=True, slots=True)
class Many:
    """Which records are meant: those of a source that a filter tells, or those of some ids."""

    wanted: Filter
    ids: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raises InvalidInputError: nobody means all sources at once by leaving something out."""
        if not self.ids and not self.wanted.source:
            raise InvalidInputError(
                "Neither a source nor records are named.",
                which="source",
                next_step="Name the source; reason, upload and time narrow it.",
            )
        if len(self.ids) > IDS_MAX:
            raise InvalidInputError(
                f"{len(self.ids)} records are named.",
                which="ids",
                next_step=f"Name at most {IDS_MAX} in a call, or use a filter.",
            )


@dataclass(frozen=True, slots=True)
class Remedies:
    journal: Journal
    objects: ObjectStore
    clock: Clock
    sources: Sources
    streams: Streams
    quarantine: Quarantine
    notice: Notice

    # One record.

    async def mend(self, tenant: str, identifier: str, body: bytes, by: str) -> Quarantined:
        """Raises InvalidInputError while the body still breaks the contract: the record stays."""
        lot, number = await self._one(tenant, identifier)
        why = fitness.unfit_body(await self.sources.terms(tenant, lot.source), body)
        if why:
            raise InvalidInputError(
                f"The mended record {why}",
                which=identifier,
                next_step="The record stays as it was; mend it again.",
            )
        progress = Progress()
        await self._mend_lot(lot, {number: body}, by, progress)
        record = await self.quarantine.get(tenant, identifier)
        if not progress.done:
            raise _has_left(identifier, record.state)
        return record

    async def replay(self, tenant: str, identifier: str, by: str) -> tuple[Quarantined, bool]:
        """Sends the mended record in, or the original if the contract allows it by now; once.

        Also answers whether another call did so before. Raises PreconditionError while the record
        still breaks the contract, and when it was discarded.
        """
        lot, number = await self._one(tenant, identifier)
        progress = Progress()
        made = await self._leave(lot, [number], "replayed", by, progress)
        record = await self.quarantine.get(tenant, identifier)
        if record.state == "discarded":
            raise _has_left(identifier, record.state)
        if record.state != "replayed":
            raise PreconditionError(
                f"The record {identifier} still breaks the contract:"
                f" {progress.examples[0].partition(': ')[2]}",
                which=identifier,
                next_step="Mend it first: `basalt quarantine mend`.",
            )
        return record, number not in made

    # Many.

    def replay_many(self, tenant: str, many: Many, by: str) -> AsyncIterator[Progress]:
        """Sends in whatever of them keeps to the contract by now; the rest stays as it is."""
        return self._leave_many(tenant, many, "replayed", by)

    def discard_many(self, tenant: str, many: Many, by: str) -> AsyncIterator[Progress]:
        """Nobody waits for them any longer; they can still be looked at."""
        return self._leave_many(tenant, many, "discarded", by)

    async def change_many(
        self, tenant: str, many: Many, wanted: Sequence[changes.Change], by: str
    ) -> AsyncIterator[Progress]:
        """Mends each of them by the same changes to its row; what is unfit then stays as it was."""
        changes.check(wanted)
        progress = Progress()
        async for lot, chosen in self._chosen(tenant, many):
            said = await self._bodies(lot, chosen)
            new, unfit = await asyncio.to_thread(fitness.changed_bodies, said, wanted)
            progress.stay(lot, unfit)
            await self._mend_lot(lot, new, by, progress)
            yield progress

    async def mend_many(self, tenant: str, mended: Mapping[str, bytes], by: str) -> Progress:
        """Gives each record, by its id, a body of its own; what is unfit stays as it was.

        Raises NotFoundError for an id of none.
        """
        progress = Progress()
        async for lot, some in self.quarantine.named(tenant, mended):
            new = {number: mended[lot.id_of(number)] for number in some}
            await self._mend_lot(lot, new, by, progress)
        return progress

    # Lots.

    async def _chosen(self, tenant: str, many: Many) -> AsyncIterator[tuple[Lot, list[int]]]:
        """The lots of those that wait and are meant, with their numbers."""
        many.check()
        wanted = many.wanted
        if many.ids:
            async for lot, some in self.quarantine.named(tenant, sorted(many.ids)):
                yield lot, [number for number in sorted(some) if lot.states[number] in WAITING]
            return
        await self.sources.get(tenant, wanted.source)
        async for lot in self.quarantine.lots(tenant, wanted):
            chosen = [
                number
                for number, held in lot.held.items()
                if wanted.holds(lot.states[number], held)
            ]
            if chosen:
                yield lot, chosen

    async def _one(self, tenant: str, identifier: str) -> tuple[Lot, int]:
        async for lot, some in self.quarantine.named(tenant, [identifier]):
            return lot, next(iter(some))
        raise AssertionError("A record that is found has a lot.")

    async def _leave_many(
        self, tenant: str, many: Many, way: Way, by: str
    ) -> AsyncIterator[Progress]:
        progress = Progress()
        async for lot, chosen in self._chosen(tenant, many):
            await self._leave(lot, chosen, way, by, progress)
            yield progress

    async def _leave(
        self, lot: Lot, chosen: Sequence[int], way: Way, by: str, progress: Progress
    ) -> frozenset[int]:
        """Has what is fit leave; the numbers of those that this call, or one it repeats, had so."""
        cause = self.journal.this_call()
        unfit: dict[int, str] = {}
        made: frozenset[int] = frozenset()

        async def attempt(lot: Lot) -> Entry | None:
            nonlocal unfit
            waiting = [number for number in chosen if lot.states[number] in WAITING]
            leaving, unfit = await self._leaving(lot, waiting, way)
            if not leaving.numbers:
                return None
            state = lot.resolution.model_copy(update={"leaving": leaving})
            return await self._append(lot, cause, _claimed(way), state, by)

        seen = await self.journal.store.by_cause(lot.aggregate, cause)
        if seen is not None:
            made = await self._made(lot, seen, way, by, progress)
            # What it left may be fit by now.
            cause = self.clock.new_id()
            lot = await self.quarantine.lot(lot.entry, lot.first)
        claim = await self._tried(lot, by, attempt)
        progress.stay(lot, unfit)
        if claim is not None:
            made |= await self._made(lot, claim, way, by, progress)
        return made

    async def _made(
        self, lot: Lot, claim: Entry, way: Way, by: str, progress: Progress
    ) -> frozenset[int]:
        """Finishes a claim of this call; the numbers of those that left by it."""
        leaving = resolution_of(claim).leaving
        if leaving is None or leaving.way != way:
            raise _another_call(lot)
        await self._finish(lot, claim.version, resolution_of(claim), leaving, by)
        progress.done += sum(leaving.reasons.values())
        return numbers.read(leaving.numbers)

    async def _tried(
        self, lot: Lot, by: str, attempt: Callable[[Lot], Awaitable[Entry | None]]
    ) -> Entry | None:
        """The attempt's entry, on a lot in which nobody else is in the middle of something.

        Whatever was appended since the lot was read takes the version that the attempt appends.
        """
        for lost_races in range(TRIES_MAX):
            if lost_races:
                # So that those who race do not do so in step.
                await asyncio.sleep(random.uniform(0, LOST_RACE_S_MAX))  # noqa: S311 - no secret.
                lot = await self.quarantine.lot(lot.entry, lot.first)
            leaving = lot.resolution.leaving
            if leaving is not None:
                await self._finish(lot, lot.version, lot.resolution, leaving, by)
                continue
            try:
                return await attempt(lot)
            except VersionTakenError:
                continue
            except CauseSeenError as seen:
                return seen.entry
        raise ConflictError(
            f"The records of {lot.name} changed {TRIES_MAX} times meanwhile.",
            which=lot.name,
            next_step="Try again.",
        )

    async def _leaving(
        self, lot: Lot, waiting: Sequence[int], way: Way
    ) -> tuple[Leaving, dict[int, str]]:
        """Those that can leave, and why others cannot; of what is sent in the rows are stored."""
        if way == "discarded":
            reasons = Counter(lot.held[number].reason for number in waiting)
            return Leaving(way=way, numbers=numbers.written(waiting), reasons=reasons), {}
        terms = await self.sources.terms(lot.tenant, lot.source)
        said = await self._bodies(lot, waiting)
        rows, unfit = await asyncio.to_thread(fitness.fit_rows, terms, lot, said)
        chunks: list[StoredChunk] = []
        if rows:
            gathered = await asyncio.to_thread(gather_rows, terms.checker, [*rows.values()])
            if gathered.accepted_rows != len(rows):
                raise ValueError(f"Rows of {lot.name} were judged in two ways.")
            chunks, _ = await self.streams.store(lot.tenant, gathered)
        leaving = Leaving(
            way=way,
            numbers=numbers.written(rows),
            reasons=Counter(lot.held[number].reason for number in rows),
            chunks=tuple(chunks),
            contract_revision=terms.revision,
        )
        return leaving, unfit

    async def _finish(
        self, lot: Lot, version: int, before: Resolution, leaving: Leaving, by: str
    ) -> None:
        """Sends in what a version of the lot's resolution claims, and tells. May be repeated."""
        tenant, source = lot.tenant, lot.source

        async def decide(latest: Entry | None) -> Change:
            position = position_of(latest, tenant, source, REPLAY)
            state = position.after(
                next_offset=0,
                contract_revision=leaving.contract_revision,
                chunks=leaving.chunks,
                held=(),
                traceparent=telemetry.traceparent(),
                discarded=sum(leaving.reasons.values()) if leaving.way == "discarded" else 0,
                left=leaving.reasons,
            )
            return change(_done(leaving.way), state)

        cause = f"{lot.name}@{version}"
        await self.journal.decide(stream(tenant, source, REPLAY), cause, by, decide)
        self.notice(tenant, source)
        gone = numbers.read(getattr(before, leaving.way)) | numbers.read(leaving.numbers)
        state = before.model_copy(
            update={
                leaving.way: numbers.written(gone),
                "left": dict(Counter(before.left) + Counter(leaving.reasons)),
                "leaving": None,
            }
        )
        told = Change(_done(leaving.way), state.model_dump(mode="json"))
        # Another may have said so meanwhile.
        with contextlib.suppress(VersionTakenError, CauseSeenError):
            await self.journal.append(lot.aggregate, version, f"{cause}:left", told, by)

    async def _mend_lot(
        self, lot: Lot, new: Mapping[int, bytes], by: str, progress: Progress
    ) -> None:
        """Gives records new bodies; those that are unfit, or have left, stay as they were."""
        terms = await self.sources.terms(lot.tenant, lot.source)
        fit, unfit = await asyncio.to_thread(fitness.fit_bodies, terms, new)
        progress.stay(lot, unfit)
        if not fit:
            return
        cause = self.journal.this_call()
        mended: set[int] = set()
        stored: StoredChunk | None = None

        async def attempt(lot: Lot) -> Entry | None:
            nonlocal stored
            mended.clear()
            mended.update(number for number in fit if lot.states[number] in WAITING)
            if not mended:
                return None
            given = {**lot.bodies, **{number: fit[number] for number in mended}}
            if sum(map(len, given.values())) > MENDED_BYTES_MAX:
                raise LimitError(
                    f"The mended records of {lot.name} are over {MENDED_BYTES_MAX} bytes together.",
                    which=lot.name,
                    next_step="Replay those that are mended; then mend the rest.",
                )
            content = await asyncio.to_thread(written_bodies, given)
            await self.objects.put(f"{lot.tenant}/mended/{digest(content)}", content)
            stored = StoredChunk(sha256=digest(content), rows=len(given), size_bytes=len(content))
            state = lot.resolution.model_copy(update={"mended": stored})
            return await self._append(lot, cause, "RecordsMended", state, by)

        entry = await self._tried(lot, by, attempt)
        if entry is not None and resolution_of(entry).mended != stored:
            # An earlier call under this key: it has to have said the same.
            given = await self.quarantine.bodies(lot.tenant, resolution_of(entry))
            if any(given.get(number) != fit[number] for number in mended):
                raise _another_call(lot)
        progress.done += len(mended)
        progress.stay(
            lot, dict.fromkeys(sorted(fit.keys() - mended), "It left quarantine meanwhile.")
        )

    async def _append(self, lot: Lot, cause: str, type_: str, state: Resolution, by: str) -> Entry:
        told = Change(type_, state.model_dump(mode="json"))
        return await self.journal.append(lot.aggregate, lot.version, cause, told, by)

    async def _bodies(self, lot: Lot, chosen: Iterable[int]) -> dict[int, bytes]:
        """What each record says: as it was mended, or else as it came; b"" where it has no row."""
        said: dict[int, bytes] = {}
        for number in chosen:
            held = lot.held[number]
            as_it_came = b"" if held.reason in WITHOUT_A_ROW else held.row
            said[number] = await self.quarantine.mended(lot, number) or as_it_came
        return said


def _has_left(identifier: str, state: State) -> PreconditionError:
    return PreconditionError(
        f"The record {identifier} was {state} already.",
        which=identifier,
        next_step="Publish a new event to change what it said.",
    )


def _another_call(lot: Lot) -> ConflictError:
    return ConflictError(
        f"A call under the same key did something else about {lot.name}.",
        which=lot.name,
        next_step="Use another idempotency key.",
    )


def _claimed(way: Way) -> str:
    return "ReplayClaimed" if way == "replayed" else "DiscardClaimed"


def _done(way: Way) -> str:
    return "RecordsReplayed" if way == "replayed" else "RecordsDiscarded"
