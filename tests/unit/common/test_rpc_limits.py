"""Deadlines, sizes and services that are not there: what a caller hears, and how soon."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from libs.common.errors import BasaltError, DependencyError, LimitError
from libs.common.peers import set_time_left
from libs.common.rpc import MESSAGE_BYTES_MAX, Peers, translated
from tests.support.echo import NAME, EchoStub, Running, running_echo

HELLO = StringValue(value="hello")


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    async with running_echo() as running:
        yield running


async def refused(call: Any) -> BasaltError:
    with pytest.raises(BasaltError) as refusal, translated("echo"):
        await call
    return refusal.value


async def test_a_hanging_service_is_named_within_the_callers_time(running: Running) -> None:
    running.echo.hangs = True

    error = await refused(running.stub().One(HELLO, timeout=0.3))

    assert type(error) is DependencyError
    assert error.which == "echo"
    assert "did not answer in time" in error.what


async def test_calls_have_a_deadline_of_their_own(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.common.peers.CALL_TIMEOUT_S", 0.3)
    running.echo.hangs = True

    assert type(await refused(running.stub().One(HELLO))) is DependencyError


async def test_a_call_on_behalf_of_a_call_ends_before_it(running: Running) -> None:
    """So that the outer caller hears who did not answer, instead of running out of time."""
    running.echo.hangs = True
    set_time_left(0.5)
    began = time.monotonic()

    error = await refused(running.stub().One(HELLO))

    assert type(error) is DependencyError
    assert time.monotonic() - began < 5, "Of the default 10 s nothing was waited for."


async def test_work_that_outlives_its_call_is_not_cut_short(running: Running) -> None:
    set_time_left(-1.0)

    assert await running.stub().One(HELLO) == HELLO


async def test_a_service_that_is_not_there_is_named() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        peers = Peers({"trainer": f"127.0.0.1:{nobody.getsockname()[1]}"})
        with (
            pytest.raises(DependencyError, match="service trainer cannot be reached") as refusal,
            translated("trainer"),
        ):
            await peers.stub(EchoStub, "trainer").One(HELLO)
        await peers.stop()

    assert refusal.value.which == "trainer"


def test_a_service_without_an_address_is_named() -> None:
    with pytest.raises(DependencyError, match="No address of the service trainer") as refusal:
        Peers({}).channel("trainer")

    assert "BASALT_PEERS" in refusal.value.next_step


async def test_a_message_that_is_too_large_is_refused_by_its_limit(running: Running) -> None:
    channel = grpc.aio.insecure_channel(
        running.address, [("grpc.max_send_message_length", 64 * 1024 * 1024)]
    )
    large = StringValue(value="x" * (MESSAGE_BYTES_MAX + 1))

    error = await refused(EchoStub(channel).One(large))
    await channel.close()

    assert type(error) is LimitError
    assert str(MESSAGE_BYTES_MAX) in error.what
    assert running.echo.handled == []


async def test_a_method_that_does_not_exist_says_so(running: Running) -> None:
    error = await refused(running.stub().Unknown(HELLO))

    assert f"There is no {NAME}/Unknown here." in error.what
