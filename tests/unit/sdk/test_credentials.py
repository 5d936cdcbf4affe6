"""A person's token is renewed while it is used; an API key never is."""

import asyncio
import base64
import json
import time
from dataclasses import replace
from typing import Any

import grpc
import pytest

from basalt import connect_async, session
from basalt.credentials import Credentials, claims
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import inference_pb2, security_pb2
from basalt.session import Session, Target
from libs.common.errors import DependencyError, UnauthenticatedError
from tests.support.answering import Answering, Metadata, RefusalError, answering

LIST = "basalt.v1.ModelService/ListModels"
RENEW = "basalt.v1.IdentityService/RenewToken"
LIFE_S = 900


def token(name: str, left_s: float = LIFE_S, use: str = "user", **more: Any) -> str:
    """Unsigned: only the platform could tell, and only the client is tested here."""
    expires_at = int(time.time() + left_s)
    said = {"use": use, "jti": name, "iat": expires_at - LIFE_S, "exp": expires_at, **more}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in ({}, said)]
    return ".".join([part.decode().rstrip("=") for part in parts] + ["signature"])


def name_of(metadata: Metadata) -> str:
    return claims(metadata["authorization"].removeprefix("Bearer "))["jti"]


def renewed(name: str, left_s: float = LIFE_S) -> security_pb2.RenewTokenResponse:
    answer = security_pb2.RenewTokenResponse(token=token(name, left_s))
    answer.expires_at.FromSeconds(int(time.time() + left_s))
    answer.login_ends_at.FromSeconds(int(time.time()) + 40_000)
    return answer


async def models_listed(server: Answering, given: str | None, times: int = 1) -> list[str]:
    """The names of the tokens with which the models were listed."""
    async with connect_async(server.address, token=given, timeout_s=5) as client:
        for _ in range(times):
            await client.call(client.models.ListModels, inference_pb2.ListModelsRequest())
    return [name_of(call.metadata) for call in server.calls if call.method == LIST]


def lists(_request: object, _metadata: Metadata) -> inference_pb2.ListModelsResponse:
    return inference_pb2.ListModelsResponse()


async def test_token_in_its_second_half_is_renewed_once() -> None:
    with answering({LIST: lists, RENEW: lambda *_: renewed("second")}) as server:
        used = await models_listed(server, token("first", left_s=LIFE_S / 2 - 5), times=3)
        assert used == ["second"] * 3
        assert server.names() == ["RenewToken", *["ListModels"] * 3]
        assert name_of(server.calls[0].metadata) == "first"


@pytest.mark.parametrize(
    "said",
    [
        {"left_s": LIFE_S - 5},
        {"left_s": 10, "use": "key"},
        {"left_s": 10, "use": "service"},
        {"left_s": 10, "exp": None},
        {"left_s": 10, "iat": "x"},
    ],
    ids=["fresh", "key", "service", "no expiry", "no issue time"],
)
async def test_what_is_not_renewed(said: dict[str, Any]) -> None:
    with answering({LIST: lists, RENEW: lambda *_: renewed("second")}) as server:
        # Made now: minutes may have passed since the tests were collected.
        await models_listed(server, token("t", **said))
        assert server.names() == ["ListModels"]


@pytest.mark.parametrize("given", ["", "no token", "a.b.c", "a.W10.c", "a..c", ".", "ä.ö.ü"])
def test_what_is_no_token_says_nothing_of_itself(given: str) -> None:
    assert claims(given) == {}


async def test_refused_renewal_is_not_asked_for_again_and_the_call_goes_on() -> None:
    def over(_request: object, _metadata: Metadata) -> None:
        raise UnauthenticatedError("The login is over.")

    with answering({LIST: lists, RENEW: over}) as server:
        assert await models_listed(server, token("first", left_s=100), times=3) == ["first"] * 3
        assert server.names().count("RenewToken") == 1


@pytest.mark.parametrize(
    "passing",
    [
        DependencyError("The audit log is away.", which="audit"),
        RefusalError(grpc.StatusCode.UNAVAILABLE, "no healthy upstream"),
    ],
)
async def test_renewal_that_may_pass_later_is_asked_for_later(passing: Exception) -> None:
    asked = 0

    async def renew(_token: str) -> Any:
        nonlocal asked
        asked += 1
        raise BasaltError("not now", code="UNAVAILABLE", retryable=True)

    def later(_request: object, _metadata: Metadata) -> None:
        raise passing

    with answering({LIST: lists, RENEW: later}) as server:
        assert await models_listed(server, token("first", left_s=100), times=3) == ["first"] * 3
        assert server.names().count("RenewToken") == 1
    credentials = Credentials(Target("h:1", token("first", left_s=100), "", None))
    await credentials.current(renew)
    credentials._due_at = 0.0
    await credentials.current(renew)
    assert asked == 2


async def test_many_calls_at_once_renew_once_and_do_not_wait_for_it() -> None:
    listed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def lists_now(*_: object) -> inference_pb2.ListModelsResponse:
        loop.call_soon_threadsafe(listed.set)
        return inference_pb2.ListModelsResponse()

    async def renews_slowly(*_: object) -> security_pb2.RenewTokenResponse:
        # Only once another call came through beside it.
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(listed.wait(), loop))
        return renewed("second")

    with answering({LIST: lists_now, RENEW: renews_slowly}) as server:
        async with connect_async(server.address, token=token("first", 100)) as client:
            request = inference_pb2.ListModelsRequest()
            calls = [client.call(client.models.ListModels, request) for _ in range(10)]
            await asyncio.gather(*calls)
            await client.call(client.models.ListModels, request)
        assert server.names().count("RenewToken") == 1
        used = [name_of(call.metadata) for call in server.calls if call.method == LIST]
        assert (used[0], used[-1]) == ("first", "second")


def login(endpoint: str, name: str, left_s: float) -> Session:
    return Session(endpoint, token(name, left_s), "acme", "ann", time.time() + left_s)


async def test_renewed_login_is_kept_for_the_next_command() -> None:
    with answering({LIST: lists, RENEW: lambda *_: renewed("second")}) as server:
        session.save(login(server.address, "first", 100))
        assert await models_listed(server, None) == ["second"]
        kept = session.load()
        assert kept is not None
        assert claims(kept.token)["jti"] == "second"
        assert kept.expires_at > time.time() + LIFE_S - 60
        assert kept.login_ends_at > time.time() + 39_000
        assert await models_listed(server, None) == ["second", "second"]


async def test_login_that_another_command_renewed_is_taken_over() -> None:
    with answering({LIST: lists, RENEW: lambda *_: renewed("third")}) as server:
        session.save(login(server.address, "first", 100))
        async with connect_async(server.address) as client:
            session.save(login(server.address, "second", LIFE_S - 5))
            await client.call(client.models.ListModels, inference_pb2.ListModelsRequest())
        assert [name_of(call.metadata) for call in server.calls] == ["second"]


@pytest.mark.parametrize("meanwhile", ["logged out", "somebody else"])
async def test_login_that_ended_meanwhile_does_not_come_back(meanwhile: str) -> None:
    with answering({LIST: lists, RENEW: lambda *_: renewed("second")}) as server:
        mine = login(server.address, "first", 100)
        session.save(mine)
        async with connect_async(server.address) as client:
            theirs = replace(mine, name="ben") if meanwhile == "somebody else" else None
            if theirs is None:
                session.forget()
            else:
                session.save(theirs)
            await client.call(client.models.ListModels, inference_pb2.ListModelsRequest())
        assert session.load() == theirs


async def test_token_of_another_clock_is_not_renewed_at_every_call() -> None:
    """The platform's clock is an hour behind this one: each token looks long expired here."""
    with answering({LIST: lists, RENEW: lambda *_: renewed("next", -3_600)}) as server:
        assert await models_listed(server, token("first", -3_600), times=5) == ["next"] * 5
        assert server.names().count("RenewToken") == 1
