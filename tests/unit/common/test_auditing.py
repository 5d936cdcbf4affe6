"""What is told of calls: durable before they take effect, bounded and kept after."""

from __future__ import annotations

import asyncio
import json

import pytest

from libs.common import auditing
from libs.common.access import AUDIT_TIMEOUT_S
from libs.common.auditing import OUTCOMES_MAX, WINDOW_S, WINDOWS_MAX, Auditing, Happening, Written
from libs.common.errors import DependencyError
from libs.common.identity import Caller, acting_tenant
from libs.common.pb.basalt.v1 import ingest_pb2, security_pb2
from libs.common.redaction import without_secrets
from libs.common.stores.mongo_collections import SELECT_MS_MAX
from tests.support.clock import HeldClock
from tests.support.eventually import eventually

ADA = Caller("acme", "ada", frozenset({"engineer"}), "t", 0.0)
BOB = Caller("acme", "bob", frozenset({"engineer"}), "t", 0.0)
METHOD = "basalt.v1.IngestService/ReadDataset"


class Log:
    """A log that can be away; a key it knows adds nothing."""

    def __init__(self) -> None:
        self.away = False
        self.slow: asyncio.Event | None = None
        self.written: list[Happening] = []
        self.tenants: list[str] = []
        self.keys: set[str] = set()

    async def write(self, happening: Happening, _named: str, key: str) -> list[Written]:
        if self.slow is not None:
            await self.slow.wait()
        if self.away:
            raise DependencyError("The service security cannot be reached.", which="security")
        if key not in self.keys:
            self.written.append(happening)
            self.tenants.append(acting_tenant())
            self.keys.add(key)
        return [Written(happening, len(self.written))]


def made() -> tuple[Auditing, Log, HeldClock]:
    log, clock = Log(), HeldClock()
    return Auditing(log.write, clock), log, clock


def reading(dataset: str = "patients", version: int = 1) -> ingest_pb2.ReadDatasetRequest:
    return ingest_pb2.ReadDatasetRequest(dataset=dataset, version=version)


async def test_alike_is_who_from_where_reads_what() -> None:
    audit, log, _ = made()
    for who in (ADA, BOB):
        for request in (reading(), reading(version=2), reading("trees")):
            for _ in range(3):
                await audit.observed(who, METHOD, request, "permitted")
    await audit.observed(ADA, METHOD, reading(), "refused")
    assert len(log.written) == 7
    pages = [security_pb2.ListAuditRequest(action="a") for _ in range(3)]
    for number, request in enumerate(pages):
        request.page.token = str(number)
        await audit.observed(ADA, "basalt.v1.AuditService/ListAudit", request, "permitted")
    assert len(log.written) == 8, "Pages of one list are one reading."


async def test_after_a_minute_it_is_recorded_anew_and_what_was_counted_is_told() -> None:
    audit, log, clock = made()
    for _ in range(1_000):
        await audit.observed(ADA, METHOD, reading(), "permitted")
    clock.pass_s(WINDOW_S)
    await audit.observed(ADA, METHOD, reading(), "permitted")
    await audit.tell_all()
    assert [each.decision for each in log.written] == ["permitted", "permitted", "done"]
    assert log.written[2].outcome_of == 1
    assert json.loads(log.written[2].request_json) == {"code": "OK", "repeated": 999}
    # Alone in its minute it needs no second record.
    audit.close_windows(0.0)
    await audit.tell_all()
    assert len(log.written) == 3


async def test_whoever_reads_the_same_at_once_waits_for_the_record() -> None:
    audit, log, _ = made()
    log.slow = asyncio.Event()
    first, second = (
        asyncio.create_task(audit.observed(ADA, METHOD, reading(), "permitted")) for _ in range(2)
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not first.done()
    assert not second.done()
    log.away = True
    log.slow.set()
    for each in (first, second):
        with pytest.raises(DependencyError) as refusal:
            await each
        assert refusal.value.which == "audit"
        assert refusal.value.what.endswith("The service security cannot be reached.")
    log.away = False
    await audit.observed(ADA, METHOD, reading(), "permitted")
    assert len(log.written) == 1


async def test_readers_are_told_apart_up_to_a_limit() -> None:
    audit, log, _ = made()
    for number in range(WINDOWS_MAX + 10):
        await audit.observed(ADA, METHOD, reading(f"d{number}"), "permitted")
    assert len(audit._windows) == WINDOWS_MAX
    assert len(log.written) == WINDOWS_MAX + 10


async def test_outcomes_wait_for_the_log_and_are_written_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auditing, "RETRY_S", 0.01)
    audit, log, _ = made()
    asked = await audit.asked(ADA, METHOD, reading(), "permitted")
    await audit.start()
    log.away = True
    audit.ended(asked, "OK")
    await eventually(lambda: "1 outcomes wait" in audit.problem)
    log.away = False
    await eventually(lambda: len(log.written) == 2 and audit.problem == "")
    # In the name of the tenant whose call it was.
    assert log.tenants[1] == "acme"
    audit.ended(asked, "OK")
    await audit.stop()
    assert len(log.written) == 2


async def test_a_stop_tells_what_it_can() -> None:
    audit, log, _ = made()
    await audit.start()
    asked = await audit.asked(ADA, METHOD, reading(), "permitted")
    for _ in range(2):
        await audit.observed(BOB, METHOD, reading(), "permitted")
    audit.ended(asked, "ABORTED")
    await audit.stop()
    assert [each.decision for each in log.written] == ["permitted", "permitted", "failed", "done"]


async def test_more_outcomes_than_may_wait_are_said_to_be_lost() -> None:
    audit, log, _ = made()
    asked = await audit.asked(ADA, METHOD, reading(), "permitted")
    for _ in range(OUTCOMES_MAX + 3):
        audit.ended(asked, "OK")
    await audit.start()
    await eventually(lambda: "3 outcomes are not in the audit log" in audit.problem)
    await audit.stop()
    assert log.written


def test_a_large_upload_is_shown_small() -> None:
    request = ingest_pb2.UploadFileRequest(source="s", part=bytes(5_000_000))
    assert len(without_secrets(request)) < 200
    many = ingest_pb2.UploadRecordsRequest(source="s", records=[b"row"] * 10_000)
    shown = json.loads(without_secrets(many))
    assert shown["records"]["count"] == 10_000
    assert shown["source"] == "s"


def test_a_database_that_is_gone_is_told_before_the_teller_gives_up() -> None:
    assert SELECT_MS_MAX / 1000 < AUDIT_TIMEOUT_S
