from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import orjson
import pytest

from libs.common.errors import (
    DependencyError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)
from libs.common.stores.sqlite import SqliteJournal
from services.ingest.core.quarantine import EVERYTHING, Filter, Quarantined
from services.ingest.core.resolution import STATES, State
from tests.support.calling import called
from tests.support.entries import Died, FaultyStore, UnreachableError
from tests.support.upstream import (
    CONTRACT,
    TENANT,
    Ingest,
    Record,
    headers,
    ingest_core,
    record,
    row,
)

WRONG_UNIT = {"value": 0.5, "unit": "m"}


def good(number: int = 0) -> bytes:
    return orjson.dumps(row(number))


async def one_held(ingest: Ingest) -> Quarantined:
    await ingest.take([record(0, width=WRONG_UNIT), record(1), record(2)])
    (held,) = await ingest.held()
    return held


async def all_pages(
    ingest: Ingest, size: int, state: State | None = None, source: str = ""
) -> list[str]:
    wanted = Filter(source, frozenset([state] if state else STATES))
    found: list[str] = []
    token = ""
    while True:
        page, token = await ingest.quarantine.page(TENANT, wanted, token, size)
        found += [each.id for each in page]
        assert len(page) <= size
        if not token:
            return found


async def test_a_held_record_is_mended_and_sent_in(ingest: Ingest) -> None:
    held = await one_held(ingest)
    assert (held.state, held.record.reason, held.mended) == ("held", "unit", b"")

    mended = await ingest.remedies.mend(TENANT, held.id, good(), "ada")
    assert (mended.state, mended.mended) == ("mended", good())
    assert mended.record.body == held.record.body
    replayed, _ = await ingest.remedies.replay(TENANT, held.id, "ada")

    assert (replayed.state, replayed.id) == ("replayed", held.id)
    version = await ingest.seal()
    assert version.sealed.manifest.row_count == 3
    assert (version.sealed.quarantined, version.sealed.duplicates_dropped) == (0, 0)


async def test_a_mended_record_that_is_still_wrong_stays_as_it_was(ingest: Ingest) -> None:
    held = await one_held(ingest)

    for body in (b"{", b"[]", orjson.dumps(row(0, width=-1)), b"x" * (2 * 1024 * 1024)):
        with pytest.raises(InvalidInputError):
            await ingest.remedies.mend(TENANT, held.id, body, "ada")

    assert (await ingest.quarantine.get(TENANT, held.id)).state == "held"


async def test_a_record_nobody_mended_is_sent_in_once_the_contract_allows_it(
    ingest: Ingest,
) -> None:
    await ingest.take([record(0, width=150)])
    (held,) = await ingest.held()
    with pytest.raises(PreconditionError, match="allows from 0 up to 100"):
        await ingest.remedies.replay(TENANT, held.id, "ada")

    await ingest.put_source(CONTRACT.replace("maximum: 100", "maximum: 200"))
    replayed, _ = await ingest.remedies.replay(TENANT, held.id, "ada")
    assert replayed.state == "replayed"
    assert (await ingest.rows(await ingest.seal()))["width"].to_list() == [150.0]


async def test_what_has_no_envelope_is_sent_in_only_when_mended(ingest: Ingest) -> None:
    await ingest.take([Record(0, good(), headers("event-0", ce_id=None))])
    (held,) = await ingest.held()
    with pytest.raises(PreconditionError, match="id are missing"):
        await ingest.remedies.replay(TENANT, held.id, "ada")

    await ingest.remedies.mend(TENANT, held.id, good(), "ada")
    await ingest.remedies.replay(TENANT, held.id, "ada")

    assert (await ingest.rows(await ingest.seal())).height == 1


async def test_replaying_again_and_at_once_sends_in_once(ingest: Ingest) -> None:
    held = await one_held(ingest)
    await ingest.remedies.mend(TENANT, held.id, good(), "ada")

    async def call(key: str) -> bool:
        replaying = ingest.remedies.replay(TENANT, held.id, "ada")
        _, already = await called("ada", key, replaying)
        return already

    answers = await asyncio.gather(*(call(f"key-{n}") for n in range(5)))

    assert sorted(answers) == [False, True, True, True, True]
    # One that repeats a call is answered as it was; another call is told what it found.
    assert not await call(f"key-{answers.index(False)}")
    assert await call("another")
    assert (await ingest.sources.counts(TENANT, "scans")).accepted == 3
    with pytest.raises(PreconditionError, match="replayed already"):
        await ingest.remedies.mend(TENANT, held.id, good(), "ada")


async def test_a_mended_record_keeps_the_identity_and_time_of_its_event(ingest: Ingest) -> None:
    held = await one_held(ingest)
    # The upstream system corrects the record by itself meanwhile, under the same event.
    await ingest.take([record(0, offset=3, width=44)])
    await ingest.remedies.mend(TENANT, held.id, good(), "ada")
    await ingest.remedies.replay(TENANT, held.id, "ada")

    version = await ingest.seal()

    assert version.sealed.duplicates_dropped == 1
    assert (await ingest.rows(version))["width"].to_list()[0] == 44


async def test_pages_of_any_size_show_every_record_once(ingest: Ingest) -> None:
    for partition in (0, 1):
        for chunk in range(4):
            records = [
                record(number, offset=chunk * 10 + number, width=None if number % 3 else 1)
                for number in range(10 if chunk != 2 else 1)
            ]
            await ingest.take(records, partition)
    expected = await all_pages(ingest, 500)
    assert len(expected) == len(set(expected)) == 2 * 3 * 6
    # The newest entry of a stream comes first.
    assert expected[0].startswith("scans.0.4.")

    for size in (1, 2, 5, 6, 7, 36):
        assert await all_pages(ingest, size) == expected
        assert await all_pages(ingest, size, source="scans") == expected


async def test_records_are_listed_by_state(ingest: Ingest) -> None:
    await ingest.take([record(number, width=None) for number in range(6)])
    ids = await all_pages(ingest, 500)
    for number, identifier in enumerate(ids[:4]):
        await ingest.remedies.mend(TENANT, identifier, good(number), "ada")
    for identifier in ids[:2]:
        await ingest.remedies.replay(TENANT, identifier, "ada")

    for size in (1, 2, 10):
        assert await all_pages(ingest, size, "replayed") == ids[:2]
        assert await all_pages(ingest, size, "mended") == ids[2:4]
        assert await all_pages(ingest, size, "held") == ids[4:]


async def test_a_page_is_never_too_large_for_a_message(ingest: Ingest) -> None:
    body = b"x" * 1_000_000
    await ingest.take([Record(at, body, headers(f"e{at}")) for at in range(12)])

    page, token = await ingest.quarantine.page(TENANT, EVERYTHING, "", 500)

    assert sum(len(each.record.body) for each in page) < 6_000_000
    assert token
    assert len(await all_pages(ingest, 500)) == 12


async def test_what_is_not_there_is_not_found(ingest: Ingest) -> None:
    held = await one_held(ingest)
    wrong = ["", "scans", "scans.0.1.1", "scans.0.2.0", "scans.1.1.0", "../x", "scans.0.1.-1"]
    for identifier in [*wrong, "scans.0.1.0.0", "other.0.1.0", "scans.0.999999999999999999.0"]:
        with pytest.raises(NotFoundError):
            await ingest.quarantine.get(TENANT, identifier)
    with pytest.raises(NotFoundError):
        await ingest.quarantine.get("stranger", held.id)
    with pytest.raises(NotFoundError):
        await ingest.quarantine.page(TENANT, Filter("other"), "", 5)
    with pytest.raises(InvalidInputError, match="token"):
        await ingest.quarantine.page(TENANT, EVERYTHING, "nonsense", 5)


@pytest.mark.parametrize("fault", [Died, UnreachableError])
async def test_cut_off_anywhere_a_record_is_sent_in_once(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    at, struck = 0, True
    while struck:
        folder = tmp_path / str(at)
        store = SqliteJournal(folder / "ingest.db")
        core = ingest_core(folder, store=store)
        await core.put_source()
        held = await one_held(core)
        faulty = FaultyStore(store, at, fault)
        with contextlib.suppress(Died, DependencyError):
            await _mend_and_replay(ingest_core(folder, store=faulty), held.id)
        struck = faulty.struck
        await _mend_and_replay(core, held.id)
        assert (await core.sources.counts(TENANT, "scans")).accepted == 3
        assert (await core.quarantine.get(TENANT, held.id)).state == "replayed"
        await core.close()
        at += 1
    assert at > 20


async def _mend_and_replay(core: Ingest, identifier: str) -> None:
    if (await core.quarantine.get(TENANT, identifier)).state == "held":
        # It may have been sent in before the fault.
        with contextlib.suppress(PreconditionError):
            await core.remedies.mend(TENANT, identifier, good(), "ada")
    await core.remedies.replay(TENANT, identifier, "ada")
