"""One tenant's many calls are that tenant's matter."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from libs.common import sharing
from libs.common.errors import LimitError
from libs.common.identity import Caller
from libs.common.policy import Policy
from libs.common.sharing import TENANT_CALLS_MAX, Sharing
from tests.support.echo import RING, running_echo
from tests.support.eventually import eventually


def caller(tenant: str, subject: str = "ada") -> Caller:
    return Caller(tenant, subject, frozenset({"engineer"}), "token", 0.0)


WATCH = "basalt.v1.TrainerService/WatchJob"
LIST = "basalt.v1.TrainerService/ListJobs"


async def held(shared: Sharing, who: Caller, method: str, times: int) -> AsyncExitStack:
    stack = AsyncExitStack()
    for _ in range(times):
        await stack.enter_async_context(shared.admitted(who, method))
    return stack


async def test_beyond_its_calls_a_tenant_is_refused_and_nobody_else() -> None:
    shared = Sharing()
    async with await held(shared, caller("many"), WATCH, TENANT_CALLS_MAX):
        with pytest.raises(LimitError, match=str(TENANT_CALLS_MAX)):
            async with shared.admitted(caller("many"), LIST):
                pass
        async with shared.admitted(caller("one"), LIST):
            pass
        async with shared.admitted(caller("many", "service:trainer"), LIST):
            pass
        async with shared.admitted(None, "basalt.v1.IdentityService/Login"):
            pass
    async with shared.admitted(caller("many"), LIST):
        pass


@pytest.mark.parametrize(
    ("method", "at_once"),
    [
        ("ListJobs", sharing.READS_AT_ONCE),
        ("GetDriftReport", sharing.READS_AT_ONCE),
        ("UploadFile", sharing.UPLOADS_AT_ONCE),
        ("UploadRecords", sharing.UPLOADS_AT_ONCE),
        ("SealDataset", sharing.SEALINGS_AT_ONCE),
    ],
)
async def test_two_hundred_of_one_tenant_do_not_delay_another(method: str, at_once: int) -> None:
    shared, go_on = Sharing(), asyncio.Event()
    inside: list[str] = []

    async def call(tenant: str) -> None:
        async with shared.admitted(caller(tenant), f"basalt.v1.Service/{method}"):
            inside.append(tenant)
            if tenant == "many":
                await go_on.wait()

    many = [asyncio.create_task(call("many")) for _ in range(200)]
    await eventually(lambda: inside == ["many"] * (at_once // 2))
    await call("one")
    assert inside == ["many"] * (at_once // 2) + ["one"]
    go_on.set()
    await asyncio.gather(*many)


def test_every_costly_call_that_is_named_is_a_call_that_there_is() -> None:
    names = {method.rpartition("/")[2] for method in Policy.load().methods}
    assert names >= sharing.UPLOADS | sharing.SEALINGS


async def test_the_guard_lets_calls_in_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.sharing.READ_PREFIXES", ("One",))
    async with running_echo() as running:
        running.echo.go_on = asyncio.Event()
        many = running.stub(RING.token(tenant="many"))
        calls = [asyncio.ensure_future(many.One(StringValue(value=str(n)))) for n in range(200)]
        room = sharing.READS_AT_ONCE // 2
        await eventually(lambda: len(running.echo.handled) == room)
        one = asyncio.ensure_future(
            running.stub(RING.token(tenant="globex")).One(StringValue(value="one"))
        )
        await eventually(lambda: "globex" in running.echo.callers)
        assert len(running.echo.handled) == room + 1
        running.echo.go_on.set()
        await asyncio.gather(one, *calls)


async def test_beyond_its_calls_the_guard_says_which_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.common.sharing.TENANT_CALLS_MAX", 2)
    async with running_echo() as running:
        running.echo.go_on = asyncio.Event()
        stub = running.stub()
        calls = [asyncio.ensure_future(stub.One(StringValue())) for _ in range(2)]
        await eventually(lambda: len(running.echo.handled) == 2)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.One(StringValue())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        running.echo.go_on.set()
        await asyncio.gather(*calls)
