"""What every journal store promises, on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from libs.common.errors import DependencyError, InvalidInputError
from libs.common.stores.mongo import MongoJournal
from libs.common.stores.ports import (
    ENTRY_BYTES_MAX,
    CauseSeenError,
    Entry,
    JournalStore,
    VersionTakenError,
)
from libs.common.stores.sqlite import SqliteJournal
from tests.support.entries import NOON, entry

OpenStore = Callable[[], JournalStore]


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.real)])
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens the same journal again and again, as replicas and restarts do."""
    opened: list[JournalStore] = []
    if request.param == "mongo":
        address = f"{request.getfixturevalue('ferretdb').url}contract_{uuid4().hex}"

    def open_one() -> JournalStore:
        if request.param == "mongo":
            opened.append(MongoJournal(address, "ingest"))
        else:
            opened.append(SqliteJournal(tmp_path / "ingest.db"))
        return opened[-1]

    yield open_one
    for each in opened:
        await each.close()


@pytest.fixture
def store(open_store: OpenStore) -> JournalStore:
    return open_store()


async def test_what_is_inserted_is_read_back_as_it_was(store: JournalStore) -> None:
    inserted = entry(
        state={"a": [1, 2.5, None, True], "b": {"c.d": "ü", "$e": 2**60}}, events=2, at=NOON
    )

    await store.insert(inserted)

    assert await store.latest(inserted.aggregate) == inserted
    assert await store.by_cause(inserted.aggregate, inserted.cause) == inserted
    assert await store.history(inserted.aggregate) == [inserted]


async def test_nothing_is_read_of_what_is_not_there(store: JournalStore) -> None:
    assert await store.latest("acme/dataset/none") is None
    assert await store.by_cause("acme/dataset/none", "cause") is None
    assert await store.history("acme/dataset/none") == []
    assert await store.heads("dataset") == []
    assert await store.unrelayed() == []


async def test_a_taken_version_is_refused(store: JournalStore) -> None:
    await store.insert(entry(cause="first"))

    with pytest.raises(VersionTakenError):
        await store.insert(entry(cause="second", events=1))

    assert [each.cause for each in await store.history(entry().aggregate)] == ["first"]
    assert await store.unrelayed() == []


async def test_a_cause_seen_before_is_answered_with_its_entry(store: JournalStore) -> None:
    first = entry(version=1, cause="same")
    await store.insert(first)

    with pytest.raises(CauseSeenError) as seen:
        await store.insert(entry(version=2, cause="same", events=1))

    assert seen.value.entry == first
    assert await store.latest(first.aggregate) == first
    assert await store.unrelayed() == []


async def test_the_same_cause_and_version_again_is_the_same_entry(store: JournalStore) -> None:
    inserted = entry(events=1)
    await store.insert(inserted)

    with pytest.raises(CauseSeenError) as seen:
        await store.insert(inserted)

    assert seen.value.entry == inserted
    assert await store.unrelayed() == [inserted]


async def test_one_cause_has_its_effect_in_each_aggregate(store: JournalStore) -> None:
    await store.insert(entry("acme/dataset/a", cause="same"))
    await store.insert(entry("acme/dataset/b", cause="same"))

    assert len(await store.heads("dataset")) == 2


async def test_history_comes_in_pages_in_the_order_of_versions(store: JournalStore) -> None:
    for version in range(1, 13):
        await store.insert(entry(version=version))

    first = await store.history(entry().aggregate, limit=5)
    rest = await store.history(entry().aggregate, after_version=5)

    assert [each.version for each in [*first, *rest]] == list(range(1, 13))


async def test_heads_are_the_latest_of_a_kind_in_pages(store: JournalStore) -> None:
    for name in ("b", "a", "c"):
        for version in (1, 2, 3):
            await store.insert(entry(f"acme/dataset/{name}", version))
    await store.insert(entry("acme/source/a", 1))

    first = await store.heads("dataset", limit=2)
    rest = await store.heads("dataset", after=first[-1].aggregate, limit=2)

    found = [(each.aggregate, each.version) for each in [*first, *rest]]
    assert found == [(f"acme/dataset/{name}", 3) for name in "abc"]


async def test_heads_of_a_tenant_are_nobody_elses(store: JournalStore) -> None:
    for tenant in ("acme", "acme-2", "acm", "acme.b", "acme0"):
        await store.insert(entry(f"{tenant}/dataset/a"))

    assert [each.tenant for each in await store.heads("dataset", "acme")] == ["acme"]
    assert await store.heads("dataset", "acme", after="acme/dataset/a") == []


async def test_what_waits_to_be_published_is_found_until_it_is_marked(store: JournalStore) -> None:
    entries = [entry(version=version, events=version % 2) for version in (1, 2, 3)]
    for each in entries:
        await store.insert(each)

    assert await store.unrelayed() == [entries[0], entries[2]]
    await store.mark_relayed([entries[0]])
    await store.mark_relayed([entries[0]])
    assert await store.unrelayed() == [entries[2]]


async def test_what_was_published_is_known_for_a_day(store: JournalStore) -> None:
    entries = [entry(f"acme/dataset/{name}", events=1) for name in "abc"]
    for each in entries:
        await store.insert(each)
    assert await store.published() == []
    await store.mark_relayed(entries[:2])
    await store.mark_relayed(entries[2:])

    first = await store.published(limit=2)
    rest = await store.published(after=first[-1].place)

    assert [each.entry for each in [*first, *rest]] == entries


async def test_versions_wait_in_their_order_whatever_the_clocks_say(store: JournalStore) -> None:
    for version in range(1, 8):
        await store.insert(entry(version=version, events=1, at=NOON - timedelta(hours=version)))

    waiting = await store.unrelayed(limit=3)

    assert [each.version for each in waiting] == [1, 2, 3]


async def test_everything_that_waits_is_found_in_the_end(store: JournalStore) -> None:
    wanted = set()
    for number in range(23):
        waiting = entry(f"acme/dataset/{number % 7}", number // 7 + 1, events=1)
        await store.insert(waiting)
        wanted.add(waiting.id)

    found: set[str] = set()
    while page := await store.unrelayed(limit=5):
        found |= {each.id for each in page}
        await store.mark_relayed(page)

    assert found == wanted


async def test_another_handle_sees_what_one_wrote(open_store: OpenStore) -> None:
    one, other = open_store(), open_store()
    await one.insert(entry(events=1))

    assert await other.latest(entry().aggregate) == entry(events=1)
    assert await other.unrelayed() == [entry(events=1)]
    with pytest.raises(VersionTakenError):
        await other.insert(entry(cause="another"))


async def test_it_is_all_there_after_closing_and_opening(open_store: OpenStore) -> None:
    one = open_store()
    await one.insert(entry(events=1))
    await one.close()

    again = open_store()
    assert await again.history(entry().aggregate) == [entry(events=1)]
    assert await again.unrelayed() == [entry(events=1)]


async def test_of_many_inserts_of_one_version_one_wins(open_store: OpenStore) -> None:
    handles = [open_store() for _ in range(4)]

    async def insert(number: int) -> str | None:
        try:
            await handles[number % 4].insert(entry(cause=f"cause-{number}", events=1))
        except VersionTakenError:
            return None
        return f"cause-{number}"

    winners = [cause for cause in await asyncio.gather(*map(insert, range(40))) if cause]

    assert [each.cause for each in await handles[0].history(entry().aggregate)] == winners
    assert [each.cause for each in await handles[0].unrelayed()] == winners


async def test_of_many_inserts_of_one_cause_one_wins(open_store: OpenStore) -> None:
    handles = [open_store() for _ in range(4)]

    async def insert(number: int) -> Entry:
        wanted = entry(version=number % 5 + 1, cause="same", events=1)
        try:
            await handles[number % 4].insert(wanted)
        except CauseSeenError as seen:
            return seen.entry
        return wanted

    answers = await asyncio.gather(*map(insert, range(40)))

    assert len({answer.id for answer in answers}) == 1
    assert await handles[0].unrelayed() == [answers[0]]


async def test_an_entry_that_is_too_large_is_refused(store: JournalStore) -> None:
    with pytest.raises(InvalidInputError, match=f"over {ENTRY_BYTES_MAX}"):
        await store.insert(entry(state={"text": "x" * ENTRY_BYTES_MAX}))

    assert await store.latest(entry().aggregate) is None


async def test_one_that_was_closed_refuses(store: JournalStore) -> None:
    await store.insert(entry())
    await store.close()
    await store.close()

    for operation in (
        lambda: store.insert(entry(version=2)),
        lambda: store.latest("acme/dataset/a"),
        lambda: store.heads("dataset"),
        store.ping,
    ):
        with pytest.raises(DependencyError) as refusal:
            await operation()
        assert refusal.value.which == "journal"


async def test_ping_answers(store: JournalStore) -> None:
    await store.ping()
