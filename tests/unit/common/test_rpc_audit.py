"""What the guard tells the audit log of a call, over real gRPC."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from libs.common.errors import DependencyError, NotFoundError
from tests.support.echo import RING, Running, running_echo
from tests.support.eventually import eventually
from tests.unit.common.test_rpc import HELLO, refused, said


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_echo() as running:
        yield running


async def test_the_log_says_how_a_privileged_call_ended(running: Running) -> None:
    stub = running.stub(RING.token(roles=["administrator"]))
    await stub.Administer(HELLO)
    running.echo.error = NotFoundError("There is no such thing.")
    await refused(stub.Administer(HELLO))
    running.echo.error = RuntimeError("insides")
    await refused(stub.Administer(HELLO))
    await refused(running.stub().Administer(HELLO))
    await running.auditing.tell_all()

    asked, outcomes = running.audit.log[:4], running.audit.log[4:]
    assert [each.decision for each in asked] == ["permitted"] * 3 + ["refused"]
    assert [(each.decision, each.outcome_of) for each in outcomes] == [
        ("done", 1),
        ("failed", 2),
        ("failed", 3),
    ]
    assert [json.loads(each.request_json)["code"] for each in outcomes] == [
        "OK",
        "NOT_FOUND",
        "INTERNAL",
    ]
    assert "insides" not in str(running.audit.log)
    assert {each.address for each in running.audit.log} == {"127.0.0.1"}


async def test_a_privileged_call_that_its_caller_gives_up_is_told_as_that(running: Running) -> None:
    running.echo.hangs = True
    call = running.stub(RING.token(roles=["administrator"])).Administer(HELLO)
    await eventually(lambda: running.echo.handled == ["Administer"])
    call.cancel()
    await eventually(lambda: "Administer" in running.echo.ended)
    await running.auditing.tell_all()

    assert json.loads(running.audit.log[1].request_json) == {"code": "CANCELLED"}


async def test_a_stream_is_recorded_with_what_it_is_about_and_loses_nothing(
    running: Running,
) -> None:
    answer = await running.stub().Upload(said("source", "-", "rows"))

    assert answer.value == "source-rows"
    (record,) = running.audit.log
    assert (record.decision, record.request_json) == ("permitted", '"source"')


async def test_a_stream_without_a_message_is_recorded_too(running: Running) -> None:
    assert (await running.stub().Upload(said())).value == ""
    assert [each.request_json for each in running.audit.log] == ["{}"]


async def test_reading_is_recorded_before_it_is_answered_and_then_counted(running: Running) -> None:
    for _ in range(5):
        assert [each.value async for each in running.stub().Many(HELLO)] == list(HELLO.value)
    assert running.audit.records == [("ada", "Many", "permitted")]
    running.auditing.close_windows(0.0)
    await running.auditing.tell_all()

    assert running.audit.records[1:] == [("ada", "Many", "done")]
    assert json.loads(running.audit.log[1].request_json) == {"code": "OK", "repeated": 4}


async def test_nothing_is_read_that_cannot_be_recorded(running: Running) -> None:
    running.audit.down = True
    error = await refused(running.stub().Many(HELLO).read())
    assert (type(error), error.which) == (DependencyError, "audit")
    assert running.echo.handled == []
    running.audit.down = False
    assert (await running.stub().Many(HELLO).read()).value == "h"
    assert len(running.audit.log) == 1
