"""Many records in quarantine at once: counted, mended, sent in and discarded, each exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from libs.common.errors import (
    ConflictError,
    DependencyError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)
from libs.common.stores.sqlite import SqliteJournal
from services.ingest.core import changes, fitness, numbers, remedies, uploads
from services.ingest.core.changes import DropColumn, RenameColumn, ScaleColumn, SetColumn
from services.ingest.core.quarantine import EVERYTHING, Filter
from services.ingest.core.remedies import Many, Progress
from services.ingest.core.resolution import WAITING, State
from services.ingest.core.streams import REPLAY, stream
from tests.support.calling import called
from tests.support.entries import Died, FaultyStore, UnreachableError
from tests.support.upstream import CONTRACT, TENANT, Ingest, ingest_core, record, row

SCANS = Filter("scans", WAITING)
WIDER = CONTRACT.replace("maximum: 100", "maximum: 500")
Act = Callable[[], AsyncIterator[Progress]]


async def ended(working: AsyncIterator[Progress]) -> Progress:
    progress = Progress()
    async for told in working:
        assert told.done >= progress.done
        progress = replace(told)
    return progress


async def replayed(ingest: Ingest, wanted: Filter = SCANS, *ids: str) -> Progress:
    return await ended(ingest.remedies.replay_many(TENANT, Many(wanted, frozenset(ids)), "ada"))


async def discarded(ingest: Ingest, wanted: Filter = SCANS, *ids: str) -> Progress:
    return await ended(ingest.remedies.discard_many(TENANT, Many(wanted, frozenset(ids)), "ada"))


async def changed(ingest: Ingest, *wanted: changes.Change, among: Filter = SCANS) -> Progress:
    return await ended(ingest.remedies.change_many(TENANT, Many(among), wanted, "ada"))


async def waiting(ingest: Ingest, wanted: Filter = EVERYTHING) -> dict[str, int]:
    return {each.reason: each.records for each in await ingest.quarantine.count(TENANT, wanted)}


async def states(ingest: Ingest) -> Counter[State]:
    found: Counter[State] = Counter()
    token = ""
    while True:
        page, token = await ingest.quarantine.page(TENANT, Filter("scans"), token, 100)
        found.update(each.state for each in page)
        if not token:
            return found


async def upload(ingest: Ingest, key: str, rows: Sequence[dict[str, Any]]) -> None:
    async def parts() -> AsyncIterator[Sequence[bytes]]:
        yield [orjson.dumps(each) for each in rows]

    await ingest.uploads.take_records(TENANT, "scans", key, "ada", parts())


@pytest.fixture
async def troubled(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    """Of three reasons, in a stream of two entries and in an upload of two objects."""
    monkeypatch.setattr(uploads, "CHUNK_ROWS_MAX", 10)
    wide = [record(number, width=150) for number in range(4)]
    await ingest.take([*wide, record(4), record(5, slices=None)])
    await ingest.take([record(6, width=200), record(7, comment="!"), record(8)])
    await upload(
        ingest, "file-1", [row(number, width=None if number % 2 else 300) for number in range(15)]
    )
    assert await waiting(ingest) == {"range": 13, "missing": 8, "unknown-column": 1}
    return ingest


async def test_what_waits_is_counted_by_reason_with_an_example_of_each(troubled: Ingest) -> None:
    counts = await troubled.quarantine.count(TENANT, EVERYTHING)

    assert [each.records for each in counts] == [13, 8, 1]
    details = [each.example.record.detail for each in counts if each.example]
    assert "the contract allows from 0 up to 100" in details[0]
    assert "is missing" in details[1]
    assert "comment" in details[2]
    upload_only = Filter("scans", upload="file-1")
    assert await waiting(troubled, upload_only) == {"range": 8, "missing": 7}
    assert await waiting(troubled, Filter("scans", reason="range")) == {"range": 13}
    assert await waiting(troubled, Filter("scans", upload="file-2")) == {}
    (source,) = await troubled.sources.page(TENANT, "", 5)
    of_source = await troubled.sources.counts(TENANT, source.name)
    assert (of_source.accepted, of_source.waiting, of_source.discarded) == (2, 22, 0)


async def test_the_counter_falls_as_records_leave_by_reason(troubled: Ingest) -> None:
    await troubled.put_source(WIDER)

    told = await replayed(troubled, replace(SCANS, reason="range"))

    assert (told.done, told.unfit) == (13, 0)
    assert await waiting(troubled) == {"missing": 8, "unknown-column": 1}
    told = await discarded(troubled, replace(SCANS, reason="missing"))
    assert (told.done, told.unfit) == (8, 0)
    assert await waiting(troubled) == {"unknown-column": 1}
    counts = await troubled.sources.counts(TENANT, "scans")
    assert (counts.accepted, counts.waiting, counts.discarded) == (15, 1, 8)
    version = await troubled.seal()
    assert (version.sealed.manifest.row_count, version.sealed.quarantined) == (10, 1)
    assert await states(troubled) == {"held": 1, "replayed": 13, "discarded": 8}
    # Once more: nobody is left that is meant.
    assert (await replayed(troubled, replace(SCANS, reason="range"))).done == 0
    assert (await discarded(troubled, replace(SCANS, reason="range"))).done == 0


async def test_what_still_breaks_the_contract_stays_and_says_why(troubled: Ingest) -> None:
    told = await replayed(troubled)

    assert (told.done, told.unfit) == (0, 22)
    assert len(told.examples) == 3
    assert "allows from 0 up to 100" in told.examples[0]
    assert await states(troubled) == {"held": 22}
    assert await troubled.journal.latest(stream(TENANT, "scans", REPLAY)) is None


async def test_all_of_a_file_or_of_a_time_are_meant(troubled: Ingest) -> None:
    newest = (await troubled.held())[0]
    assert (await discarded(troubled, replace(SCANS, held_from=newest.at))).done >= 1
    later = newest.at + timedelta(days=1)
    assert (await discarded(troubled, replace(SCANS, held_from=later))).done == 0
    left = sum((await waiting(troubled)).values())
    of_file = sum((await waiting(troubled, Filter("scans", upload="file-1"))).values())

    assert (await discarded(troubled, replace(SCANS, upload="file-1"))).done == of_file
    assert (await discarded(troubled, replace(SCANS, held_until=later))).done == left - of_file
    assert await waiting(troubled) == {}


async def test_rows_are_mended_alike(ingest: Ingest) -> None:
    await ingest.take(
        [
            record(0, width={"value": 0.01, "unit": "m"}),
            record(1, width={"value": 2, "unit": "m"}),
            record(2, comment="!"),
            record(3, finding="unknown"),
        ]
    )
    told = await changed(ingest, ScaleColumn("width", 1_000), among=replace(SCANS, reason="unit"))
    # Two metres are 2,000 mm, and too many.
    assert (told.done, told.unfit) == (1, 1)
    assert "2000.0 mm; the contract allows from 0 up to 100" in told.examples[0]
    drop = await changed(
        ingest, DropColumn("comment"), among=replace(SCANS, reason="unknown-column")
    )
    put = await changed(
        ingest, SetColumn("finding", "benign"), among=replace(SCANS, reason="range")
    )
    assert (drop.done, put.done) == (1, 1)
    assert await states(ingest) == {"mended": 3, "held": 1}

    assert (await replayed(ingest, replace(SCANS, states=frozenset({"mended"})))).done == 3

    rows = (await ingest.rows(await ingest.seal())).sort("scan")
    assert rows["width"].to_list() == [10.0, row(2)["width"], row(3)["width"]]
    assert rows["finding"].to_list()[-1] == "benign"
    # The event is still the one it was.
    await ingest.take([record(2, offset=9)])
    assert (await ingest.seal()).sealed.duplicates_dropped == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (DropColumn("comment"), "has no column 'comment'"),
        (RenameColumn("comment", "finding"), "has a column 'finding' already"),
        (RenameColumn("comment", "note"), "has no column 'comment'"),
        (ScaleColumn("finding", 2), "'finding' has no number"),
        (ScaleColumn("contrast", 2), "'contrast' has no number"),
        (ScaleColumn("width", 1e308), "'width' would be too large"),
        (ScaleColumn("slices", 10**30), "'slices' would be too large"),
    ],
)
async def test_a_change_that_does_not_apply_leaves_the_record(
    ingest: Ingest, change: changes.Change, why: str
) -> None:
    await ingest.take([record(0, width=150)])

    told = await changed(ingest, change)

    assert (told.done, told.unfit) == (0, 1)
    assert why in told.examples[0]
    assert await states(ingest) == {"held": 1}


def test_changes_are_made_one_after_the_other() -> None:
    first = {"a": 1, "b": 2}
    new = changes.changed(
        first, [RenameColumn("a", "c"), SetColumn("a", None), ScaleColumn("c", 2.5)]
    )
    assert new == {"a": None, "b": 2, "c": 2.5}
    assert first == {"a": 1, "b": 2}
    assert changes.changed({"a": 3}, [ScaleColumn("a", 1_000.0)]) == {"a": 3_000}


async def test_many_are_mended_by_bodies_of_their_own(troubled: Ingest) -> None:
    held = [each for each in await troubled.held() if each.record.reason == "range"]
    mended = {each.id: orjson.dumps(row(number)) for number, each in enumerate(held)}
    mended[held[0].id] = orjson.dumps(row(0, width=-1))

    told = await troubled.remedies.mend_many(TENANT, mended, "ada")

    assert (told.done, told.unfit) == (12, 1)
    assert told.examples[0].startswith(held[0].id)
    shown = await troubled.quarantine.get(TENANT, held[1].id)
    assert (shown.state, shown.mended) == ("mended", mended[held[1].id])
    assert (await replayed(troubled)).done == 12
    with pytest.raises(NotFoundError):
        await troubled.remedies.mend_many(TENANT, {"scans.0.9.0": b"{}"}, "ada")


async def test_the_body_that_was_given_last_is_sent_in(ingest: Ingest) -> None:
    await ingest.take([record(0, width=150), record(1, width=160)])
    first, second = (each.id for each in await ingest.held())
    remedies = ingest.remedies

    async def widths() -> list[float]:
        both = [await ingest.quarantine.get(TENANT, each) for each in (first, second)]
        return [orjson.loads(each.mended)["width"] for each in both]

    await remedies.mend(TENANT, first, orjson.dumps(row(0, width=1)), "ada")
    many = {first: orjson.dumps(row(0, width=2)), second: orjson.dumps(row(1, width=2))}
    await remedies.mend_many(TENANT, many, "ada")
    assert await widths() == [2, 2]
    await remedies.mend(TENANT, second, orjson.dumps(row(1, width=3)), "ada")
    assert await widths() == [2, 3]
    await remedies.mend_many(TENANT, {first: orjson.dumps(row(0, width=4))}, "ada")
    assert await widths() == [4, 3]
    assert (await replayed(ingest)).done == 2
    rows = await ingest.rows(await ingest.seal())
    assert sorted(rows["width"].to_list()) == [3, 4]


async def test_who_has_left_does_not_come_back(ingest: Ingest) -> None:
    await ingest.take([record(0, width=150), record(1, width=150)])
    kept, gone = (each.id for each in await ingest.held())
    assert (await discarded(ingest, EVERYTHING, gone)).done == 1
    body = orjson.dumps(row(1))

    with pytest.raises(PreconditionError, match="discarded already"):
        await ingest.remedies.mend(TENANT, gone, body, "ada")
    with pytest.raises(PreconditionError, match="discarded already"):
        await ingest.remedies.replay(TENANT, gone, "ada")
    assert (await ingest.remedies.mend_many(TENANT, {gone: body}, "ada")).unfit == 1
    await ingest.remedies.mend(TENANT, kept, body, "ada")
    await ingest.remedies.replay(TENANT, kept, "ada")
    assert (await discarded(ingest)).done == 0
    assert await states(ingest) == {"replayed": 1, "discarded": 1}


async def test_a_key_that_is_used_again_does_what_is_left(ingest: Ingest) -> None:
    """And never says that something was done which was not."""
    await ingest.take([record(0, width=150), record(1, width=150), record(2, width=150)])
    first, second, third = (each.id for each in await ingest.held())
    await ingest.put_source(WIDER)
    remedies = ingest.remedies

    for _ in range(2):
        _, already = await called("ada", "key", remedies.replay(TENANT, first, "ada"))
        assert not already
    with pytest.raises(ConflictError, match="under the same key"):
        await called("ada", "key", discarded(ingest, EVERYTHING, second))
    with pytest.raises(ConflictError, match="under the same key"):
        await called("ada", "key", remedies.mend_many(TENANT, {third: orjson.dumps(row(3))}, "ada"))
    assert await states(ingest) == {"replayed": 1, "held": 2}
    _, already = await called("ada", "key", remedies.replay(TENANT, second, "ada"))
    assert not already
    body = {third: orjson.dumps(row(3))}
    for _ in range(2):
        assert (await called("ada", "mending", remedies.mend_many(TENANT, body, "ada"))).done == 1
    with pytest.raises(ConflictError, match="under the same key"):
        await called("ada", "mending", remedies.replay(TENANT, third, "ada"))
    assert await states(ingest) == {"replayed": 2, "mended": 1}


async def test_a_record_is_mended_though_its_lot_was_left_in_the_middle(tmp_path: Path) -> None:
    """Its claim is finished first, and it is told what became of it."""
    store = SqliteJournal(tmp_path / "ingest.db")
    core = ingest_core(tmp_path, store=store)
    await core.put_source()
    await core.take([record(0, width=150), record(1, width=150)])
    first, second = (each.id for each in await core.held())
    for at in range(200):
        faulty = FaultyStore(store, at, Died)
        with contextlib.suppress(Died):
            await discarded(ingest_core(tmp_path, store=faulty), EVERYTHING, first)
        claimed = await core.journal.latest(f"{TENANT}/resolution/scans.0.1.0")
        if claimed is not None:
            break
    with pytest.raises(PreconditionError, match="was discarded already"):
        await core.remedies.mend(TENANT, first, orjson.dumps(row(0)), "ada")
    assert (await core.remedies.mend(TENANT, second, orjson.dumps(row(1)), "ada")).state == "mended"
    await core.close()


@pytest.mark.parametrize("size", [2_000_000, 400_000])
async def test_what_is_mended_at_once_is_bounded(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    for module in (remedies, fitness):
        monkeypatch.setattr(module, "MENDED_BYTES_MAX", 1_000_000)
    await ingest.take([record(number, finding="?") for number in range(5)])
    told = await changed(ingest, SetColumn("scan", "x" * size), SetColumn("finding", "benign"))
    assert told.done == (0 if size > 1_000_000 else 2)
    assert told.unfit == 5 - told.done


async def test_nobody_means_everything_by_leaving_something_out(troubled: Ingest) -> None:
    with pytest.raises(InvalidInputError, match="Neither a source nor records"):
        await discarded(troubled, EVERYTHING)
    with pytest.raises(NotFoundError):
        await discarded(troubled, Filter("other"))
    with pytest.raises(NotFoundError):
        await discarded(troubled, EVERYTHING, "scans.0.9.9")
    with pytest.raises(InvalidInputError, match="1001"):
        await discarded(troubled, EVERYTHING, *(f"scans.0.1.{number}" for number in range(1_001)))
    wrong: list[Sequence[changes.Change]] = [
        [],
        [DropColumn("")],
        [RenameColumn("a", "")],
        [ScaleColumn("a", 0)],
        [ScaleColumn("a", float("nan"))],
        [DropColumn("a")] * 101,
    ]
    for each in wrong:
        with pytest.raises(InvalidInputError):
            await changed(troubled, *each)
    assert await states(troubled) == {"held": 22}


async def test_whoever_comes_at_once_does_nothing_twice(troubled: Ingest) -> None:
    await troubled.put_source(WIDER)
    told = await asyncio.gather(
        replayed(troubled), discarded(troubled), replayed(troubled), discarded(troubled)
    )

    # A call that saw another's claim may not have been the one to carry it out; counts add up.
    assert sum(each.done for each in told) == 22
    counts = await troubled.sources.counts(TENANT, "scans")
    assert counts.accepted + counts.discarded == 2 + 22
    assert counts.waiting == 0
    found = await states(troubled)
    assert (found["replayed"], found["discarded"]) == (counts.accepted - 2, counts.discarded)


@pytest.mark.parametrize("way", ["replay", "discard"])
@pytest.mark.parametrize("fault", [Died, UnreachableError])
async def test_cut_off_anywhere_nothing_is_lost_or_done_twice(
    tmp_path: Path, way: str, fault: type[BaseException]
) -> None:
    act = replayed if way == "replay" else discarded
    at, struck = 0, True
    while struck:
        folder = tmp_path / str(at)
        store = SqliteJournal(folder / "ingest.db")
        core = ingest_core(folder, store=store)
        await core.put_source()
        await core.take([record(0, width=150), record(1), record(2, width=160)])
        await core.put_source(WIDER)
        faulty = FaultyStore(store, at, fault)
        with contextlib.suppress(Died, DependencyError):
            await act(ingest_core(folder, store=faulty))
        struck = faulty.struck
        counts = await core.sources.counts(TENANT, "scans")
        assert counts.accepted + counts.waiting + counts.discarded == 3
        await act(core)
        counts = await core.sources.counts(TENANT, "scans")
        done = (3, 0, 0) if way == "replay" else (1, 0, 2)
        assert (counts.accepted, counts.waiting, counts.discarded) == done
        assert await waiting(core) == {}
        assert sum((await states(core)).values()) == 2
        await core.close()
        at += 1
    assert at > 10


async def test_what_was_counted_only_lately_is_counted_by_looking(
    troubled: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journals of before have neither totals by reason nor, in older ones, an entry's reasons."""
    before = await waiting(troubled)
    real = troubled.journal.store.latest

    async def forgetful(aggregate: str) -> Any:
        entry = await real(aggregate)
        if entry is None or "held_by_reason" not in entry.state:
            return entry
        return replace(entry, state={**entry.state, "held_by_reason": {}})

    heads = troubled.journal.store.heads

    async def older(*given: Any) -> Any:
        return [
            replace(each, state={**each.state, "held_by_reason": {}})
            if "held_by_reason" in each.state
            else each
            for each in await heads(*given)
        ]

    history = troubled.journal.store.history

    async def unreasoned(*given: Any, **more: Any) -> Any:
        return [
            replace(each, state={**each.state, "reasons": {}})
            for each in await history(*given, **more)
        ]

    monkeypatch.setattr(troubled.journal.store, "latest", forgetful)
    monkeypatch.setattr(troubled.journal.store, "heads", older)
    assert await waiting(troubled) == before
    monkeypatch.setattr(troubled.journal.store, "history", unreasoned)
    assert await waiting(troubled) == before
    assert (await discarded(troubled, replace(SCANS, reason="missing"))).done == 8
    assert await waiting(troubled) == {"range": 13, "unknown-column": 1}


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_is_done_in_whatever_order_adds_up(troubled: Ingest, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret.
    reasons = ["range", "missing", "unknown-column", ""]
    for _ in range(12):
        wanted = replace(SCANS, reason=chance.choice(reasons))
        if chance.random() < 0.3:
            wanted = replace(wanted, upload="file-1")
        act = chance.choice(["replay", "discard", "change", "wider", "one"])
        if act == "replay":
            await replayed(troubled, wanted)
        elif act == "discard":
            page, _ = await troubled.quarantine.page(TENANT, wanted, "", 3)
            if page:
                await discarded(troubled, EVERYTHING, *(each.id for each in page))
        elif act == "change":
            await changed(troubled, SetColumn("width", chance.randint(1, 120)), among=wanted)
        elif act == "wider":
            await troubled.put_source(WIDER)
        else:
            page, _ = await troubled.quarantine.page(TENANT, wanted, "", 1)
            for each in page:
                with contextlib.suppress(PreconditionError):
                    await troubled.remedies.replay(TENANT, each.id, "ada")
        found, counts = await states(troubled), await troubled.sources.counts(TENANT, "scans")
        assert sum(found.values()) == 22
        assert counts.accepted == 2 + found["replayed"]
        assert counts.discarded == found["discarded"]
        assert counts.waiting == found["held"] + found["mended"]
        by_reason = await waiting(troubled)
        assert sum(by_reason.values()) == counts.waiting
        long_ago = (await troubled.held())[-1].at - timedelta(days=1)
        assert await waiting(troubled, Filter(held_from=long_ago)) == by_reason


def test_numbers_are_read_as_they_were_written() -> None:
    chance = random.Random(1)  # noqa: S311 - no secret.
    for size in (0, 1, 2, 40):
        some = {chance.randrange(60) for _ in range(size)}
        assert numbers.read(numbers.written(some)) == some
    assert numbers.written([4, 0, 1, 2, 2, 9]) == "0-2,4,9"
