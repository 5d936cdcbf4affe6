"""Who may see which spans, and what a trace is part of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import InvalidInputError, LimitError, NotFoundError, PreconditionError
from services.monitoring.core.spans import SPANS_WAITING_MAX, Span
from services.monitoring.core.traces import Traces, visible
from services.monitoring.outbound.sqlite_traces import SqliteTraces

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def span(
    span_id: str,
    parent: str = "",
    *,
    trace: str = A,
    tenant: str = "",
    links: tuple[str, ...] = (),
    started_us: int = 1_000,
) -> Span:
    return Span(
        trace_id=trace,
        span_id=span_id,
        parent_span_id=parent,
        service="ingest",
        name=f"span {span_id}",
        kind="internal",
        started_us=started_us,
        duration_us=10,
        failed=False,
        status_message="",
        tenant=tenant,
        attributes={"basalt.tenant": tenant} if tenant else {},
        linked_trace_ids=links,
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteTraces]:
    opened = SqliteTraces(tmp_path / "traces.db", SystemClock(), spans_max=1_000, age_s_max=1e12)
    yield opened
    await opened.stop()


async def given(store: SqliteTraces, *spans: Span) -> Traces:
    await store.add(spans)
    await store.write_waiting()
    return Traces(store)


def ids(spans: list[Span]) -> list[str]:
    return [each.span_id for each in spans]


def test_a_tenant_alone_in_a_trace_sees_all_of_it() -> None:
    spans = [span("1"), span("2", "1", tenant="acme"), span("3", "2")]

    assert ids(visible("acme", spans)) == ["1", "2", "3"]
    assert visible("umbrella", spans) == []


def test_in_a_shared_trace_each_sees_what_it_caused() -> None:
    spans = [
        span("1"),
        span("2", "1", tenant="acme"),
        span("3", "2"),
        span("4", "1", tenant="umbrella"),
        span("5", "4"),
        span("6", "missing"),
    ]

    assert ids(visible("acme", spans)) == ["2", "3"]
    assert ids(visible("umbrella", spans)) == ["4", "5"]


def test_parents_in_a_circle_belong_to_nobody() -> None:
    spans = [span("1", "2"), span("2", "1"), span("3", tenant="acme"), span("4", tenant="umbrella")]

    assert ids(visible("acme", spans)) == ["3"]


async def test_a_trace_comes_with_the_traces_it_is_linked_to(store: SqliteTraces) -> None:
    # The upstream's trace A; a chunk's trace B that links to it; a training's trace C to B.
    traces = await given(
        store,
        span("a1", tenant="acme", started_us=1),
        span("b1", trace=B, tenant="acme", links=(A,), started_us=2),
        span("c1", trace=C, tenant="acme", links=(B,), started_us=3),
    )

    for trace_id in (A, B, C, C.upper()):
        assert ids(await traces.get("acme", trace_id)) == ["a1", "b1", "c1"]


async def test_links_do_not_lead_to_another_tenants_trace(store: SqliteTraces) -> None:
    traces = await given(
        store,
        span("a1", tenant="acme"),
        span("b1", trace=B, tenant="umbrella", links=(A,)),
        span("c1", trace=C, tenant="acme", links=(B,)),
    )

    assert ids(await traces.get("acme", A)) == ["a1"]
    assert ids(await traces.get("platform", A)) == ["a1", "b1", "c1"]
    with pytest.raises(NotFoundError):
        await traces.get("acme", B)


async def test_the_root_of_a_trace_is_named_whatever_comes_first(store: SqliteTraces) -> None:
    traces = await given(store, span("2", "1", started_us=5), span("3", "2", tenant="acme"))
    await given(store, span("1", started_us=7))

    (summary,), token = await traces.page("acme", 10, "")

    assert (summary.root, summary.spans, token) == ("ingest: span 1", 3, "")


async def test_pages_are_newest_first(store: SqliteTraces) -> None:
    spans = [
        span("1", trace=f"{number:032x}", tenant="acme", started_us=number // 2)
        for number in range(20)
    ]
    traces = await given(store, *spans, span("1", trace=B, tenant="umbrella"))

    seen: list[str] = []
    token = ""
    while True:
        page, token = await traces.page("acme", 3, token)
        seen += [each.trace_id for each in page]
        if not token:
            break

    assert seen == [f"{number:032x}" for number in reversed(range(20))]
    for wrong in ("x", "5", "5-zz", f"-5-{A}", f"{'9' * 40}-{A}"):
        with pytest.raises(InvalidInputError, match="not one that this listing gave"):
            await traces.page("acme", 3, wrong)


async def test_spans_sent_twice_are_there_once(store: SqliteTraces) -> None:
    traces = await given(store, span("1", tenant="acme"))
    await given(store, span("1", tenant="acme"))

    (summary,), _ = await traces.page("acme", 10, "")
    assert summary.spans == 1


async def test_the_oldest_traces_go_first(tmp_path: Path) -> None:
    store = SqliteTraces(tmp_path / "few.db", SystemClock(), spans_max=10, age_s_max=1e12)
    many = [
        span(f"{number}", trace=f"{number // 2:032x}", tenant="acme", started_us=number)
        for number in range(40)
    ]
    traces = await given(store, *many)

    await store.prune()

    page, _ = await traces.page("acme", 50, "")
    assert [each.trace_id for each in page] == [f"{number:032x}" for number in range(19, 14, -1)]
    await store.stop()


async def test_old_traces_go(tmp_path: Path) -> None:
    store = SqliteTraces(tmp_path / "old.db", SystemClock(), spans_max=10, age_s_max=3_600)
    now_us = round(SystemClock().now().timestamp() * 1_000_000)
    fresh = replace(span("1", trace=B, tenant="acme"), started_us=now_us)
    traces = await given(store, span("1", tenant="acme"), fresh)

    await store.prune()

    page, _ = await traces.page("acme", 50, "")
    assert [each.trace_id for each in page] == [B]
    await store.stop()


async def test_what_waits_is_bounded(store: SqliteTraces) -> None:
    await store.add([span("1")] * SPANS_WAITING_MAX)

    with pytest.raises(LimitError):
        await store.add([span("2")])


@pytest.mark.parametrize("trace_id", ["", "abc", "g" * 32, "a" * 33])
async def test_what_is_no_trace_id_is_refused(store: SqliteTraces, trace_id: str) -> None:
    with pytest.raises(InvalidInputError, match="32 hexadecimal digits"):
        await Traces(store).get("acme", trace_id)


async def test_without_a_store_it_says_where_traces_are() -> None:
    with pytest.raises(PreconditionError, match="OpenTelemetry Collector"):
        await Traces(None).get("acme", A)
    with pytest.raises(PreconditionError, match="OpenTelemetry Collector"):
        await Traces(None).page("acme", 10, "")


async def test_a_restart_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    first = SqliteTraces(path, SystemClock(), spans_max=10, age_s_max=1e12)
    await first.start()
    await first.add([span("1", tenant="acme")])
    await first.stop()

    second = SqliteTraces(path, SystemClock(), spans_max=10, age_s_max=1e12)
    assert ids(await Traces(second).get("acme", A)) == ["1"]
    await second.stop()
