"""Decisions on a journal: each cause once, whoever races, whatever is repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.clock import SystemClock
from libs.common.errors import ConflictError, InvalidInputError
from libs.common.journal import Change, Decide, Journal, aggregate
from libs.common.stores.ports import EVENT_BYTES_MAX, Entry, VersionTakenError
from libs.common.stores.sqlite import SqliteJournal
from tests.support.calling import called
from tests.support.entries import FaultyStore, dataset_versioned

COUNTER = "acme/counter/visits"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    store = SqliteJournal(tmp_path / "test.db")
    yield store
    await store.close()


@pytest.fixture
def journal(store: SqliteJournal) -> Journal:
    return Journal(store, SystemClock())


def adding(amount: int) -> Decide:
    async def decide(latest: Entry | None) -> Change:
        total = (latest.state["total"] if latest else 0) + amount
        return Change("Added", {"total": total})

    return decide


async def nothing(_latest: Entry | None) -> None:
    return None


async def test_a_decision_builds_on_the_one_before(journal: Journal) -> None:
    await journal.decide(COUNTER, "one", "ada", adding(1))
    entry = await journal.decide(COUNTER, "two", "ada", adding(10))

    assert (entry.version, entry.state) == (2, {"total": 11})
    assert entry == await journal.latest(COUNTER)


async def test_a_repeated_cause_is_answered_with_what_it_made(journal: Journal) -> None:
    first = await journal.decide(COUNTER, "one", "ada", adding(1))
    await journal.decide(COUNTER, "two", "ada", adding(1))

    again = await journal.decide(COUNTER, "one", "bob", adding(100))

    assert again == first
    assert len(await journal.history(COUNTER)) == 2


async def test_a_call_that_is_repeated_has_its_effect_once(journal: Journal) -> None:
    """Same caller and idempotency key: the same call. Without a key each call is another."""

    async def each(subject: str, key: str) -> Entry:
        return await called(subject, key, journal.decide(COUNTER, None, subject, adding(1)))

    first, again = await each("ada", "key-1"), await each("ada", "key-1")
    others = [await each("bob", "key-1"), await each("ada", "key-2")]
    without = [await each("ada", ""), await each("ada", "")]

    assert again == first
    assert [entry.version for entry in [first, *others, *without]] == [1, 2, 3, 4, 5]


async def test_deciding_for_nothing_leaves_everything(journal: Journal) -> None:
    first = await journal.decide(COUNTER, "one", "ada", adding(1))

    assert await journal.decide(COUNTER, "two", "ada", nothing) == first
    assert await journal.history(COUNTER) == [first]


async def test_deciding_for_nothing_on_nothing_is_a_fault(journal: Journal) -> None:
    with pytest.raises(ValueError, match="has no entry"):
        await journal.decide(COUNTER, "one", "ada", nothing)


async def test_an_error_of_the_decision_changes_nothing(journal: Journal) -> None:
    async def refuse(_latest: Entry | None) -> Change:
        raise InvalidInputError("No.")

    with pytest.raises(InvalidInputError):
        await journal.decide(COUNTER, "one", "ada", refuse)

    assert await journal.latest(COUNTER) is None


@pytest.mark.parametrize("replicas", [1, 3])
async def test_racing_decisions_each_take_effect_once(tmp_path: Path, replicas: int) -> None:
    stores = [SqliteJournal(tmp_path / "test.db") for _ in range(replicas)]
    journals = [Journal(store, SystemClock()) for store in stores]
    causes = [f"cause-{number}" for number in range(60)]

    async def decide(number: int, cause: str) -> Entry:
        while True:
            try:
                return await journals[number % replicas].decide(COUNTER, cause, "ada", adding(1))
            except ConflictError:
                continue  # What a caller does: the error says that a retry helps.

    # Each cause arrives three times, as from a bus that delivers at least once.
    entries = await asyncio.gather(*(decide(n, c) for n, c in enumerate(causes * 3)))

    history = await journals[0].history(COUNTER)
    assert sorted(entry.cause for entry in history) == sorted(causes)
    assert [entry.version for entry in history] == list(range(1, 61))
    assert history[-1].state == {"total": 60}
    assert {entry.id for entry in entries} == {entry.id for entry in history}
    for store in stores:
        await store.close()


async def test_a_zombie_is_refused(journal: Journal) -> None:
    """A claim is a version: who was presumed dead and woke up again collides."""
    waiting = await journal.append("acme/job/1", 0, "submitted", Change("Submitted", {}), "ada")
    first = await journal.append("acme/job/1", 1, "first", Change("Claimed", {"by": 1}), "first")
    assert first.version == waiting.version + 1
    await journal.append("acme/job/1", 2, "second", Change("Claimed", {"by": 2}), "second")

    with pytest.raises(VersionTakenError):
        await journal.append("acme/job/1", first.version, "done", Change("Done", {}), "first")

    latest = await journal.latest("acme/job/1")
    assert latest is not None
    assert latest.state == {"by": 2}


async def test_of_many_workers_one_claims(journal: Journal) -> None:
    await journal.append("acme/job/1", 0, "submitted", Change("Submitted", {}), "ada")

    async def claim(worker: int) -> Entry | None:
        try:
            return await journal.append(
                "acme/job/1", 1, f"claim-{worker}", Change("Claimed", {"by": worker}), "worker"
            )
        except VersionTakenError:
            return None

    claims = [won for won in await asyncio.gather(*map(claim, range(50))) if won]

    assert len(claims) == 1


async def test_what_is_answered_is_what_is_read_back(journal: Journal) -> None:
    @dataclass
    class Row:
        name: str

    async def decide(_latest: Entry | None) -> Change:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return Change("Added", {"at": at, "rows": (Row("a"),), "total": 1})

    entry = await journal.decide(COUNTER, "one", "ada", decide)

    assert entry.state == {"at": "2026-01-01T00:00:00+00:00", "rows": [{"name": "a"}], "total": 1}
    assert await journal.latest(COUNTER) == entry


@pytest.mark.parametrize("state", [{"a": object()}, {"a": {1, 2}}, {1: 2}, {"a": 2**70}])
async def test_a_state_that_is_no_json_is_refused(journal: Journal, state: Any) -> None:
    with pytest.raises(InvalidInputError, match="not JSON"):
        await journal.append(COUNTER, 0, "one", Change("Added", state), "ada")

    assert await journal.latest(COUNTER) is None


async def test_text_that_cannot_be_stored_is_refused_and_others_go_on(journal: Journal) -> None:
    wrong = journal.append(COUNTER, 0, "cause \udcff", Change("Added", {}), "ada")
    right = journal.append("acme/counter/other", 0, "one", Change("Added", {}), "ada")

    refused, entry = await asyncio.gather(wrong, right, return_exceptions=True)

    assert isinstance(refused, UnicodeEncodeError)
    assert isinstance(entry, Entry)
    await journal.append(COUNTER, 0, "one", Change("Added", {}), "ada")


async def test_an_event_too_large_for_kafka_is_refused_at_once(journal: Journal) -> None:
    event = dataset_versioned("x" * EVENT_BYTES_MAX)

    with pytest.raises(InvalidInputError, match=f"over {EVENT_BYTES_MAX}"):
        await journal.append(COUNTER, 0, "one", Change("Added", {}, [event]), "ada")


async def test_heads_equal_a_fold_over_all_history(journal: Journal) -> None:
    for number in range(700):
        name = f"acme/counter/{number % 23:02}"
        await journal.decide(name, f"cause-{number}", "ada", adding(number))

    rebuilt: dict[str, Entry] = {}
    for name in sorted({f"acme/counter/{number:02}" for number in range(23)}):
        for entry in await journal.history(name):
            assert entry.version == (rebuilt[name].version + 1 if name in rebuilt else 1)
            rebuilt[name] = entry

    assert await journal.heads("counter") == [rebuilt[name] for name in sorted(rebuilt)]
    assert await journal.heads("counter", "acme") == await journal.heads("counter")
    assert await journal.heads("counter", "beta") == []


async def test_long_histories_and_many_heads_come_whole(journal: Journal) -> None:
    await asyncio.gather(
        *(journal.decide(COUNTER, f"{n}", "ada", adding(1)) for n in range(60)),
        *(journal.decide(f"acme/other/{n:04}", "one", "ada", adding(1)) for n in range(1_100)),
    )

    assert [entry.version for entry in await journal.history(COUNTER)] == list(range(1, 61))
    heads = await journal.heads("other")
    assert [head.name for head in heads] == [f"{number:04}" for number in range(1_100)]


async def test_listeners_hear_of_what_was_committed_and_of_nothing_else(
    store: SqliteJournal,
) -> None:
    faulty = FaultyStore(store, fault_at=4, fault=ConnectionError)  # Before the insert.
    journal = Journal(faulty, SystemClock())
    heard: list[Entry] = []
    journal.listen(heard.append)

    with pytest.raises(ConnectionError):
        await journal.decide(COUNTER, "one", "ada", adding(1))
    assert heard == []
    entry = await journal.decide(COUNTER, "one", "ada", adding(1))

    assert heard == [entry]


def test_an_aggregate_is_its_tenant_kind_and_names() -> None:
    assert aggregate("acme", "dataset", "a", "b.c@d:1") == "acme/dataset/a/b.c@d:1"


@given(st.text(max_size=20))
@settings(max_examples=200)
def test_a_name_that_could_be_mistaken_is_refused(name: str) -> None:
    try:
        whole = aggregate("acme", "dataset", name)
    except InvalidInputError:
        return
    assert whole.split("/") == ["acme", "dataset", name]
    assert name.isascii()
