from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from libs.common.errors import ConflictError, DependencyError, NotFoundError
from libs.common.stores.sqlite import SqliteJournal
from services.ingest.core.streams import committed
from tests.support.entries import Died, FaultyStore, UnreachableError
from tests.support.tracing import Spans
from tests.support.upstream import CONTRACT, TOPIC, Ingest, Record, headers, ingest_core, record

RECORDS = [record(number) for number in range(20)]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-1bf7651916cd43dd8448eb211c80319c-b7ad6b7169203332-01"


async def test_a_chunk_and_its_offsets_are_one_entry(ingest: Ingest) -> None:
    await ingest.take([*RECORDS, record(20, width=None)])

    position = await ingest.intake.position(TOPIC, 0)
    assert (position.version, position.state.next_offset) == (1, 21)
    assert (position.state.accepted, position.state.held_rows) == (20, 1)
    assert position.state.contract_revision == 1


async def test_who_comes_second_is_told_and_changes_nothing(ingest: Ingest) -> None:
    position = await ingest.intake.position(TOPIC, 0)
    await ingest.intake.commit(position, RECORDS[:10])

    with pytest.raises(ConflictError):
        await ingest.intake.commit(position, RECORDS)

    counts = await ingest.sources.counts("acme", "scans")
    assert counts.accepted == 10


async def test_the_contract_in_force_is_the_one_that_counts(ingest: Ingest) -> None:
    await ingest.take([record(0, width=60)])
    await ingest.put_source(CONTRACT.replace("maximum: 100", "maximum: 50"))
    await ingest.take([record(1, width=60, offset=1)])

    position = await ingest.intake.position(TOPIC, 0)
    assert position.state.contract_revision == 2
    assert [each.record.reason for each in await ingest.held()] == ["range"]


async def test_a_topic_of_no_source_has_no_position(ingest: Ingest) -> None:
    for topic in ("upstream.acme.unknown", "upstream.other.scans", "upstream.acme", "upstream."):
        with pytest.raises(NotFoundError):
            await ingest.intake.position(topic, 0)


async def test_a_chunk_continues_the_trace_of_its_first_record(
    ingest: Ingest, spans: Spans
) -> None:
    traced = [
        Record(at, each.value, [*headers(f"event-{at}"), ("traceparent", parent.encode())])
        for at, (each, parent) in enumerate(zip(RECORDS, [PARENT, OTHER, PARENT], strict=False))
    ]
    await ingest.take(traced)

    (span,) = spans.named("commit chunk")
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == PARENT.split("-")[1]
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [OTHER.split("-")[1]]
    (entry,) = await ingest.journal.history("acme/stream/scans/0")
    assert PARENT.split("-")[1] in committed(entry).traceparent


@pytest.mark.parametrize(
    "malformed",
    [
        "nonsense",
        PARENT[:-4],
        PARENT.upper(),
        f"ff{PARENT[2:]}",
        PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        PARENT.replace("b7ad6b7169203331", "0" * 16),
    ],
)
async def test_a_malformed_traceparent_ends_its_own_records_trace_alone(
    ingest: Ingest, spans: Spans, malformed: str
) -> None:
    await ingest.take(
        [
            Record(at, each.value, [*headers(f"event-{at}"), ("traceparent", parent.encode())])
            for at, (each, parent) in enumerate(
                zip(RECORDS, [*[malformed] * 2, PARENT, OTHER], strict=False)
            )
        ]
    )

    (span,) = spans.named("commit chunk")
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == PARENT.split("-")[1]
    assert [f"{link.context.trace_id:032x}" for link in span.links] == [OTHER.split("-")[1]]


async def test_a_stream_that_begins_anew_keeps_what_it_had(ingest: Ingest) -> None:
    await ingest.take([record(0, width=None), *RECORDS[1:]])
    position = await ingest.intake.restart(await ingest.intake.position(TOPIC, 0), 0)
    await ingest.intake.commit(position, [record(30, offset=0), record(1, offset=1)])

    assert (await ingest.seal()).sealed.manifest.row_count == 20
    assert len(await ingest.held()) == 1


@pytest.mark.parametrize("fault", [Died, UnreachableError])
async def test_cut_off_anywhere_a_chunk_is_taken_in_once(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    """Whatever fails before or after any use of the journal: from its position on, all is there."""
    at, struck = 0, True
    while struck:
        folder = tmp_path / str(at)
        store = SqliteJournal(folder / "ingest.db")
        await ingest_core(folder, store=store).put_source()
        faulty = FaultyStore(store, at, fault)
        with contextlib.suppress(Died, DependencyError, ConflictError):
            await _take_all(ingest_core(folder, store=faulty))
        struck = faulty.struck
        core = ingest_core(folder, store=store)
        await _take_all(core)

        counts = await core.sources.counts("acme", "scans")
        assert (counts.accepted, counts.waiting) == (19, 1)
        assert (await core.rows(await core.seal())).height == 19
        await core.close()
        at += 1
    assert at > 8


async def _take_all(core: Ingest) -> None:
    """What the consumer does: from the position on, in two chunks."""
    whole = [record(0, width=None), *RECORDS[1:]]
    while True:
        position = await core.intake.position(TOPIC, 0)
        rest = whole[position.state.next_offset :]
        if not rest:
            return
        await core.intake.commit(position, rest[:12])
