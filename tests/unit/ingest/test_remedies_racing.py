"""Several who do something about the records of one lot at the same moment."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from libs.common.errors import ConflictError, PreconditionError
from libs.common.stores.ports import Entry, JournalStore
from libs.common.stores.sqlite import SqliteJournal
from services.ingest.core.quarantine import EVERYTHING, Filter
from services.ingest.core.remedies import Many
from services.ingest.core.resolution import WAITING
from services.ingest.core.streams import Streams
from tests.support.entries import Died
from tests.support.eventually import pause
from tests.support.upstream import CONTRACT, TENANT, Ingest, ingest_core, record, row


async def replayed(ingest: Ingest) -> None:
    async for _ in ingest.remedies.replay_many(TENANT, Many(Filter("scans", WAITING)), "ada"):
        pass


async def discarded(ingest: Ingest, *ids: str) -> None:
    async for _ in ingest.remedies.discard_many(TENANT, Many(EVERYTHING, frozenset(ids)), "ada"):
        pass


class Yielding:
    """A store that lets others go first, now and then for long."""

    def __init__(self, store: JournalStore, seed: int) -> None:
        self._store = store
        self._chance = random.Random(seed)  # noqa: S311 - no secret.

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._store, name)

        async def late(*given: Any, **more: Any) -> Any:
            await pause(self._chance.choice([0.0, 0.001, 0.004]))
            answer = await inner(*given, **more)
            await pause(self._chance.choice([0.0, 0.001, 0.004]))
            return answer

        return late


@pytest.mark.parametrize("seed", range(12))
async def test_many_who_race_on_one_lot_do_each_thing_once(tmp_path: Path, seed: int) -> None:
    core = ingest_core(tmp_path, store=SqliteJournal(tmp_path / "ingest.db"))
    await core.put_source()
    await core.take([record(number, width=150) for number in range(8)])
    ids = [each.id for each in await core.held()]
    await core.put_source(CONTRACT.replace("maximum: 100", "maximum: 500"))
    # Each a process of its own: they take no turns.
    others = [
        ingest_core(tmp_path, store=cast("JournalStore", Yielding(core.journal.store, seed + at)))
        for at in range(9)
    ]
    mended = orjson.dumps(row(5, width=7))

    async def one(at: int) -> object:
        remedies = others[at].remedies
        if at < 5:
            return await remedies.replay(TENANT, ids[at], "ada")
        if at == 5:
            return await remedies.mend(TENANT, ids[5], mended, "ada")
        if at == 6:
            return await discarded(others[at], ids[6], ids[0])
        if at == 7:
            return await replayed(others[at])
        return await remedies.mend_many(TENANT, {ids[7]: orjson.dumps(row(7, width=9))}, "ada")

    told = await asyncio.gather(*(one(at) for at in range(9)), return_exceptions=True)

    assert all(not isinstance(each, Exception) or _is_told(each) for each in told), told
    for _ in range(2):
        await replayed(core)
    found = Counter(each.state for each in await core.held())
    counts = await core.sources.counts(TENANT, "scans")
    assert found["held"] + found["mended"] == counts.waiting == 0
    assert (counts.accepted, counts.discarded) == (found["replayed"], found["discarded"])
    assert sum(found.values()) == 8
    rows = await core.rows(await core.seal())
    assert len(rows) == found["replayed"]
    # What is shown is what went in.
    widths = dict(zip(rows["scan"].to_list(), rows["width"].to_list(), strict=True))
    for identifier in ids:
        shown = await core.quarantine.get(TENANT, identifier)
        if shown.state == "replayed":
            said = orjson.loads(shown.mended or shown.record.row)
            assert widths[said["scan"]] == said["width"]
    await core.close()


def _is_told(error: Exception) -> bool:
    return isinstance(error, PreconditionError | ConflictError)


@pytest.mark.parametrize("seed", range(20))
async def test_each_of_many_single_replays_sends_its_own_in(tmp_path: Path, seed: int) -> None:
    core = ingest_core(tmp_path, store=SqliteJournal(tmp_path / "ingest.db"))
    await core.put_source()
    await core.take([record(number, width=150) for number in range(7)])
    ids = [each.id for each in await core.held()]
    await core.put_source(CONTRACT.replace("maximum: 100", "maximum: 500"))
    others = [
        ingest_core(
            tmp_path, store=cast("JournalStore", Yielding(core.journal.store, seed * 9 + at))
        )
        for at in range(7)
    ]

    told = await asyncio.gather(
        *(others[at].remedies.replay(TENANT, ids[at], "ada") for at in range(7))
    )

    # Nobody hears that another did it: nobody else was asked to.
    assert [(each.state, already) for each, already in told] == [("replayed", False)] * 7
    counts = await core.sources.counts(TENANT, "scans")
    assert (counts.accepted, counts.waiting) == (7, 0)
    assert len(await core.rows(await core.seal())) == 7
    await core.close()


class After:
    """A store that does something else once an entry of a type was inserted."""

    def __init__(
        self, store: JournalStore, type_: str, then: Callable[[], Awaitable[object]]
    ) -> None:
        self._store = store
        self._type = type_
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def insert(self, entry: Entry) -> None:
        await self._store.insert(entry)
        if entry.type == self._type and "/resolution/" in entry.aggregate:
            self._type = ""
            await self._then()


async def test_who_finishes_anothers_claim_finds_a_third_ones(tmp_path: Path) -> None:
    """Between the end of the one and the beginning of his own; both others die in the middle."""
    core = ingest_core(tmp_path, store=SqliteJournal(tmp_path / "ingest.db"))
    await core.put_source()
    await core.take([record(number, width=150) for number in range(3)])
    ids = [each.id for each in await core.held()]
    await core.put_source(CONTRACT.replace("maximum: 100", "maximum: 500"))

    async def die() -> None:
        raise Died("Once it has claimed.")

    async def claim(at: int) -> None:
        store = cast("JournalStore", After(core.journal.store, "ReplayClaimed", die))
        with contextlib.suppress(Died):
            await ingest_core(tmp_path, store=store).remedies.replay(TENANT, ids[at], "ada")

    await claim(0)
    late = cast("JournalStore", After(core.journal.store, "RecordsReplayed", lambda: claim(2)))
    await ingest_core(tmp_path, store=late).remedies.replay(TENANT, ids[1], "ada")

    for identifier in ids:
        shown, _ = await core.remedies.replay(TENANT, identifier, "ada")
        assert shown.state == "replayed"
    counts = await core.sources.counts(TENANT, "scans")
    assert (counts.accepted, counts.waiting) == (3, 0)
    assert len(await core.rows(await core.seal())) == 3
    await core.close()


async def test_a_mending_that_comes_while_a_replay_reads_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is first: what is shown as replayed is what went in."""
    core = ingest_core(tmp_path, store=SqliteJournal(tmp_path / "ingest.db"))
    await core.put_source()
    await core.take([record(0, width=150)])
    (held,) = await core.held()
    await core.put_source(CONTRACT.replace("maximum: 100", "maximum: 500"))
    mended, real = orjson.dumps(row(0, width=7)), Streams.store
    calls = 0

    async def store(self: Streams, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            await core.remedies.mend(TENANT, held.id, mended, "bob")
        return await real(self, *given)

    monkeypatch.setattr(Streams, "store", store)
    await core.remedies.replay(TENANT, held.id, "ada")

    shown = await core.quarantine.get(TENANT, held.id)
    assert (shown.state, shown.mended) == ("replayed", mended)
    assert (await core.rows(await core.seal()))["width"].to_list() == [7.0]
    await core.close()
