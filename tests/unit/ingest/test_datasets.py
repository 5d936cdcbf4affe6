from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from libs.common.errors import DependencyError, IntegrityError, NotFoundError, PreconditionError
from libs.common.journal import Journal
from libs.common.stores.sqlite import SqliteJournal
from services.ingest.core.chunk import digest
from services.ingest.core.sealed import FORMAT
from tests.support.entries import Died, FaultyStore, UnreachableError
from tests.support.tracing import Spans
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

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WITHOUT_KEY = CONTRACT.replace("key: [scan]\n", "").replace(", role: key", "")


def timed(number: int, event: str, at: int, offset: int, **changes: Any) -> Record:
    time = f"2026-01-01T12:00:{at:02d}Z".encode()
    body = orjson.dumps(row(number, **changes))
    return Record(offset, body, headers(event, ce_time=time))


async def test_a_version_says_what_its_rows_are(ingest: Ingest) -> None:
    await ingest.take([record(number) for number in range(101)])

    version = await ingest.seal()

    manifest = version.sealed.manifest
    assert (manifest.dataset, manifest.version, manifest.row_count) == ("scans", 1, 101)
    assert (manifest.key, manifest.label, manifest.source_revision) == (("scan",), "finding", 1)
    stored = await ingest.datasets.objects.get(f"acme/manifest/{version.sealed.manifest_sha256}")
    assert digest(stored) == version.sealed.manifest_sha256
    assert orjson.loads(stored)["format"] == FORMAT
    rows = await ingest.rows(version)
    assert rows.columns == [column.name for column in manifest.columns]
    width = manifest.columns[1]
    assert (width.minimum, width.maximum) == (rows["width"].min(), rows["width"].max())
    assert width.mean == pytest.approx(rows["width"].mean())
    assert width.standard_deviation == pytest.approx(rows["width"].std(ddof=0))
    assert width.deciles[5] == rows["width"].median()
    assert (len(width.deciles), width.deciles[0]) == (11, width.minimum)
    assert manifest.columns[3].distinct_count == 2


async def test_with_nothing_new_the_latest_version_is_the_answer(ingest: Ingest) -> None:
    await ingest.take([record(0)])
    first, made = await ingest.datasets.seal(TENANT, "scans", "a", "ada")
    assert made
    again, made_again = await ingest.datasets.seal(TENANT, "scans", "b", "ada")
    assert (again.number, made_again) == (first.number, False)

    await ingest.take([record(1, offset=1, width=None)])
    held_only, made_of_nothing = await ingest.datasets.seal(TENANT, "scans", "c", "ada")
    assert (held_only.number, made_of_nothing) == (1, False)

    await ingest.take([record(2, offset=2)])
    repeated, _ = await ingest.datasets.seal(TENANT, "scans", "a", "ada")
    assert repeated.number == 1


async def test_a_repeated_event_is_dropped_and_of_a_key_the_latest_counts(ingest: Ingest) -> None:
    await ingest.take(
        [
            timed(1, "a", at=10, offset=0, width=1),
            timed(1, "b", at=30, offset=1, width=3),
            timed(1, "c", at=20, offset=2, width=2),
            timed(1, "b", at=30, offset=3, width=3),
            timed(2, "d", at=1, offset=4, width=9),
        ]
    )

    version = await ingest.seal()

    assert (await ingest.rows(version))["width"].to_list() == [3.0, 9.0]
    assert version.sealed.duplicates_dropped == 3
    counts = await ingest.sources.counts(TENANT, "scans")
    assert (counts.accepted, counts.duplicate) == (5, 3)


async def test_an_event_repeated_after_a_version_adds_nothing(ingest: Ingest) -> None:
    await ingest.take([timed(1, "a", at=10, offset=0), timed(1, "b", at=20, offset=1, width=7)])
    first = await ingest.seal()
    await ingest.take([timed(1, "a", at=10, offset=2)])
    second = await ingest.seal()

    assert (await ingest.rows(second))["width"].to_list() == [7.0]
    assert second.sealed.manifest.files == first.sealed.manifest.files
    assert second.sealed.manifest.parents == (first.sealed.manifest_sha256,)


async def test_without_a_key_every_event_is_a_row(tmp_path: Path) -> None:
    core = ingest_core(tmp_path)
    await core.put_source(WITHOUT_KEY)
    await core.take([record(1), record(1, offset=2), record(2, offset=3), record(2, offset=4)])

    assert (await core.rows(await core.seal())).height == 2
    await core.close()


@pytest.mark.parametrize("contract", [CONTRACT, WITHOUT_KEY])
@pytest.mark.parametrize("seed", range(4))
async def test_a_repeated_and_shuffled_stream_makes_the_same_digest(
    tmp_path: Path, contract: str, seed: int
) -> None:
    shuffle = random.Random(seed)  # noqa: S311 - an order, not a secret.
    # Updates of the same key, each at its own time.
    events = [(number % 25, f"event-{number}", number) for number in range(50)]
    plain = ingest_core(tmp_path / "plain")
    await plain.put_source(contract)
    await plain.take([timed(n, e, at, at, width=at) for n, e, at in events])
    expected = await plain.seal()

    odd = ingest_core(tmp_path / "odd")
    await odd.put_source(contract)
    mixed = events + shuffle.choices(events, k=30)
    shuffle.shuffle(mixed)
    for partition in range(3):
        part = mixed[partition::3]
        for first in range(0, len(part), 7):
            await odd.take(
                [
                    timed(n, e, at, offset, width=at)
                    for offset, (n, e, at) in enumerate(part[first : first + 7], first)
                ],
                partition,
            )
    found = await odd.seal()

    assert found.sealed.manifest == expected.sealed.manifest
    assert found.sealed.manifest_sha256 == expected.sealed.manifest_sha256
    assert found.sealed.duplicates_dropped == 30 + expected.sealed.duplicates_dropped
    await plain.close()
    await odd.close()


async def test_sealed_in_steps_or_at_once_the_rows_are_the_same(tmp_path: Path) -> None:
    files = []
    for steps in (1, 3):
        core = ingest_core(tmp_path / str(steps))
        await core.put_source()
        for number in range(6):
            await core.take([timed(number % 4, f"e{number}", number, number)])
            if number % 2 and steps == 3:
                await core.seal()
        files.append((await core.seal()).sealed.manifest.files)
        await core.close()
    assert files[0] == files[1]


async def test_two_replicas_seal_one_version(ingest: Ingest) -> None:
    await ingest.take([record(number) for number in range(50)])
    other = ingest_core(ingest.folder)

    sealed = await asyncio.gather(
        *(core.datasets.seal(TENANT, "scans", "", "ada") for core in (ingest, other) * 3)
    )

    assert {version.number for version, _ in sealed} == {1}
    assert sum(made for _, made in sealed) == 1
    await other.close()


async def test_the_event_goes_with_the_entry(ingest: Ingest) -> None:
    await ingest.take([record(0)])
    version = await ingest.seal()

    (entry,) = await ingest.journal.history("acme/dataset/scans")
    (event,) = entry.outbox
    assert event.event_id == "acme/dataset/scans/1"
    said = orjson.loads(event.payload)
    assert said["manifest_sha256"] == version.sealed.manifest_sha256
    assert (said["version"], said["row_count"]) == (1, 1)


async def test_a_version_continues_the_trace_of_its_first_record(
    ingest: Ingest, spans: Spans
) -> None:
    first = record(0)
    traced = Record(0, first.value, [*first.headers, ("traceparent", PARENT.encode())])
    await ingest.take([traced])

    version = await ingest.seal()

    trace = PARENT.split("-")[1]
    assert version.sealed.trace_id == trace
    (entry,) = await ingest.journal.history("acme/dataset/scans")
    assert trace in entry.outbox[0].traceparent
    assert len(spans.named("seal dataset")) == 1
    assert spans.trace_ids() == {int(trace, 16)}


async def test_a_contract_may_grow(ingest: Ingest) -> None:
    await ingest.take([record(0)])
    taken = "  - {name: taken, type: timestamp, required: false, role: ignored}\n"
    note = "  - {name: note, type: string, required: false}\n"
    wider = CONTRACT.replace(taken, "") + note
    wider = wider.replace("name: slices, type: integer", "name: slices, type: float")
    await ingest.put_source(wider)
    later = row(1, note="late")
    del later["taken"]
    await ingest.take([Record(1, orjson.dumps(later), headers("event-1"))])

    rows = await ingest.rows(await ingest.seal())

    assert rows["note"].to_list() == [None, "late"]
    assert rows["slices"].dtype == pl.Float64
    assert "taken" not in rows.columns


async def test_a_version_is_sealed_by_itself_when_due(tmp_path: Path) -> None:
    core = ingest_core(tmp_path)
    await core.put_source(CONTRACT + "versioning: {every_rows: 10}\n")
    await core.take([record(number) for number in range(9)])
    await core.autosealing.look()
    assert await core.datasets.latest_number(TENANT, "scans") == 0

    await core.take([record(9)])
    await asyncio.gather(core.autosealing.look(), core.autosealing.look())

    assert (await core.datasets.version(TENANT, "scans")).sealed.manifest.row_count == 10
    assert await core.datasets.latest_number(TENANT, "scans") == 1
    # Nothing was noticed since: all sources are looked at, and nothing is due.
    await core.autosealing.look()
    assert await core.datasets.latest_number(TENANT, "scans") == 1
    await core.close()


async def test_rows_that_changed_on_the_disk_are_not_given_out(ingest: Ingest) -> None:
    await ingest.take([record(0)])
    version = await ingest.seal()
    path = ingest.folder / "ingest/acme/dataset" / version.sealed.manifest.files[0].sha256
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(IntegrityError):
        await ingest.rows(version)


async def test_a_chunk_that_changed_on_the_disk_is_not_sealed(ingest: Ingest) -> None:
    await ingest.take([record(0)])
    (path,) = (ingest.folder / "ingest/acme/chunk").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")

    with pytest.raises(IntegrityError):
        await ingest.seal()
    assert await ingest.datasets.latest_number(TENANT, "scans") == 0


async def test_what_is_not_there_is_not_found(ingest: Ingest) -> None:
    with pytest.raises(PreconditionError, match="no accepted record yet"):
        await ingest.seal()
    with pytest.raises(NotFoundError, match="no version yet"):
        await ingest.datasets.version(TENANT, "scans")
    await ingest.take([record(0)])
    await ingest.seal()
    for name, number in (("scans", 2), ("scans", -1), ("other", 0), ("no name", 0)):
        with pytest.raises(NotFoundError):
            await ingest.datasets.version(TENANT, name, number)
    with pytest.raises(NotFoundError):
        await ingest.datasets.version("stranger", "scans", 1)


async def test_datasets_are_listed_with_what_waits_for_a_version(ingest: Ingest) -> None:
    await ingest.take([record(0), record(1)])
    await ingest.seal()
    await ingest.take([record(2, offset=2)])

    (dataset,) = await ingest.datasets.page(TENANT, "", 50)

    assert (dataset.name, dataset.latest_version, dataset.row_count) == ("scans", 1, 2)
    assert dataset.records_unsealed == 1
    assert await ingest.datasets.page("stranger", "", 50) == []


@pytest.mark.parametrize("fault", [Died, UnreachableError])
async def test_cut_off_anywhere_a_version_is_sealed_once(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    store = SqliteJournal(tmp_path / "ingest.db")
    core = ingest_core(tmp_path, store=store)
    await core.put_source()
    at, struck, sealed = 0, True, 0
    while struck:
        await core.take([record(at, offset=at)])
        faulty = FaultyStore(store, at, fault)
        cut = ingest_core(tmp_path, store=faulty)
        with contextlib.suppress(Died, DependencyError):
            await cut.datasets.seal(TENANT, "scans", f"seal-{at}", "ada")
        struck = faulty.struck
        version, made = await core.datasets.seal(TENANT, "scans", f"seal-{at}", "ada")
        sealed += 1
        assert (version.number, version.sealed.manifest.row_count, made) == (sealed, at + 1, True)
        at += 1
    history = await Journal(store, core.datasets.clock).history("acme/dataset/scans")
    assert [entry.version for entry in history] == list(range(1, sealed + 1))
    assert at > 8
    await core.close()
