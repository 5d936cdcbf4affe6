"""What security revokes is refused at the door, whoever else stands still."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest

from tests.support.door import Door
from tests.support.eventually import eventually

Code = grpc.StatusCode
# Each kind of revocation, with a token that it concerns and one that it does not.
KINDS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"token_id": "key-1"}, {"jti": "key-1"}, {"jti": "key-2"}),
    ({"login_id": "login-1"}, {"jti": "a", "sid": "login-1"}, {"jti": "b", "sid": "login-2"}),
    (
        {"subject": "acme/ben", "generation": 3},
        {"sub": "ben", "gen": "2"},
        {"sub": "ben", "gen": "3"},
    ),
    # Tokens of a release that knew no generations.
    ({"subject": "acme/eve", "generation": 1}, {"sub": "eve"}, {"sub": "eva"}),
]


async def in_force(door: Door, sequence: int, follower: str = "dispatcher") -> None:
    known = door.neighbours.in_force
    await eventually(lambda: known.get(follower, 0) >= sequence, within_s=15)


async def is_refused(door: Door, **claims: Any) -> bool:
    """At this moment; says why where it is."""
    code, message = await door.ask(**claims)
    if code is Code.OK:
        return False
    assert code is Code.UNAUTHENTICATED
    assert "revoked" in message
    assert "basalt login" in message
    return True


async def test_it_is_refused_once_confirmed_with_the_control_process_stopped(door: Door) -> None:
    os.kill(door.gateway.pid, signal.SIGSTOP)
    try:
        for row, concerned, other in KINDS:
            assert not await is_refused(door, **concerned)
            await in_force(door, door.neighbours.revoke(**row))
            # At once: this is what whoever revokes is told.
            assert await is_refused(door, **concerned)
            assert not await is_refused(door, **other)
            assert not await is_refused(door, **concerned, tenant="globex") or "jti" in concerned
    finally:
        os.kill(door.gateway.pid, signal.SIGCONT)


async def test_a_stopped_dispatcher_confirms_nothing_before_it_refuses(door: Door) -> None:
    await in_force(door, door.neighbours.tell())
    os.kill(door.dispatcher.pid, signal.SIGSTOP)
    try:
        sequence = door.neighbours.revoke(token_id="key-1")
        await in_force(door, sequence, "gateway")
        assert door.neighbours.in_force["dispatcher"] < sequence
    finally:
        os.kill(door.dispatcher.pid, signal.SIGCONT)
    await in_force(door, sequence)
    assert await is_refused(door, jti="key-1")


@pytest.mark.parametrize("security", ["away", "there"])
async def test_a_dispatcher_that_begins_anew_knows_what_was_revoked(
    door: Door, security: str
) -> None:
    await in_force(door, door.neighbours.revoke(token_id="before"))
    os.kill(door.dispatcher.pid, signal.SIGKILL)
    await asyncio.to_thread(door.dispatcher.stop)
    if security == "away":
        await door.neighbours.stop()
    else:
        # While nobody followed: it is known before the first call is taken.
        door.neighbours.revoke(token_id="meanwhile")
    await asyncio.to_thread(door.dispatcher.start)
    await eventually(door.answers, within_s=10)
    assert await is_refused(door, jti="before")
    if security == "there":
        assert await is_refused(door, jti="meanwhile")


async def test_rest_refuses_it_too(door: Door) -> None:
    await in_force(door, door.neighbours.revoke(token_id="key-1"), "gateway")

    async def asked(jti: str) -> int:
        head = (
            f"GET /v2 HTTP/1.1\r\nhost: door\r\nconnection: close\r\n"
            f"authorization: Bearer {door.token(jti=jti)}\r\n\r\n"
        )
        host, _, port = door.listen.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode())
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1])

    assert (await asked("key-1"), await asked("key-2")) == (401, 200)
