"""Changed deployments, keys, revocations and limits, while calls keep coming."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import grpc
import pytest

from libs.common.pb.basalt.v1 import gateway_pb2
from libs.common.pb.basalt.v1.gateway_pb2_grpc import GatewayServiceStub
from tests.support.door import Door, health, outcome, request
from tests.support.eventually import eventually
from tests.support.tokens import KeyRing
from tools.servers.ports import free_ports

CALLS, CHANGES, CALLERS = 2_000, 20, 8
LIVE_S_MAX = 5.0  # A second is the promise; a busy machine of two cores is no measure of it.
Code = grpc.StatusCode


async def put_limits(door: Door, **limits: object) -> None:
    async with door.channel() as channel:
        await GatewayServiceStub(channel).PutLimits(
            gateway_pb2.PutLimitsRequest(limits=gateway_pb2.Limits(**limits)),  # pyright: ignore[reportArgumentType]
            metadata=door.bearer(tenant="platform", roles=["administrator"], sub="root"),
            timeout=10,
        )


async def change(door: Door, number: int) -> None:
    """One of each kind in turn; none of them concerns the calls that are flowing."""
    neighbours = door.neighbours
    match number % 5:
        case 0:
            neighbours.route("acme", "canary", {1: 100 - number, 2: number})
        case 1:
            neighbours.revoke(token_id=f"another-{number}")
        case 2:
            neighbours.ring.keys[f"key-{number}"] = KeyRing.new_key(f"key-{number}")
            neighbours.tell()
        case 3:
            await put_limits(door, tenant="globex", requests_per_second=1_000 + number)
        case _:
            await put_limits(door, tenant="acme", requests_in_flight_max=200 + number)


async def test_no_call_is_dropped_by_changes(door: Door) -> None:
    ended: Counter[tuple[Code, str]] = Counter()
    configurations: set[str] = set()

    async def keep_calling() -> None:
        # One connection for all of its calls: a listener that was replaced would close it.
        async with door.inference() as stub:
            while sum(ended.values()) < CALLS or len(configurations) < CHANGES // 2:
                call = stub.ModelInfer(request([[1, 2]]), metadata=door.bearer(), timeout=20)
                ended[await outcome(call)] += 1

    async def keep_changing() -> None:
        async with door.channel() as channel:
            for number in range(CHANGES):
                before = sum(ended.values())
                await change(door, number)
                await eventually(lambda before=before: sum(ended.values()) > before)
                report = await GatewayServiceStub(channel).GetDoor(
                    gateway_pb2.GetDoorRequest(), metadata=door.bearer(), timeout=10
                )
                configurations.add(report.configuration_sha256)
                assert report.refused == ""
            while len(configurations) < CHANGES // 2:
                await change(door, 3 + 5 * len(configurations))
                report = await GatewayServiceStub(channel).GetDoor(
                    gateway_pb2.GetDoorRequest(), metadata=door.bearer(), timeout=10
                )
                configurations.add(report.configuration_sha256)

    await asyncio.gather(keep_changing(), *(keep_calling() for _ in range(CALLERS)))

    assert set(ended) == {(Code.OK, "")}
    assert sum(ended.values()) >= CALLS


async def test_a_revoked_key_is_refused_and_a_rotated_one_taken(door: Door) -> None:
    assert await door.answers(jti="key-1")
    changed_at = time.monotonic()
    door.neighbours.revoke(token_id="key-1")

    async def refused() -> str:
        code, message = await door.ask(jti="key-1")
        return message if code is Code.UNAUTHENTICATED else ""

    message = await eventually(refused, within_s=LIVE_S_MAX)
    print(f"live after {time.monotonic() - changed_at:.2f} s")
    assert "revoked" in message
    assert "basalt login" in message
    assert await door.answers(jti="key-2")

    old = door.neighbours.ring
    door.neighbours.ring = KeyRing("two")
    new_token = door.neighbours.ring.token("two", sub="app", roles=["application"])
    door.neighbours.tell()

    async def taken() -> bool:
        async with door.inference() as stub:
            metadata = (("authorization", f"Bearer {new_token}"),)
            call = stub.ModelInfer(request([[1, 2]]), metadata=metadata, timeout=5)
            return (await outcome(call))[0] is Code.OK

    await eventually(taken, within_s=LIVE_S_MAX)
    async with door.inference() as stub:
        metadata = (("authorization", f"Bearer {old.token(roles=['application'])}"),)
        call = stub.ModelInfer(request([[1, 2]]), metadata=metadata, timeout=5)
        assert (await outcome(call))[0] is Code.UNAUTHENTICATED


async def test_a_changed_deployment_is_live_at_once(door: Door) -> None:
    door.neighbours.route("acme", "double", {2: 100})

    async def second() -> bool:
        async with door.inference() as stub:
            call = stub.ModelInfer(request([[1, 2]]), metadata=door.bearer(), timeout=5)
            return (await call).model_version == "2"

    await eventually(second, within_s=LIVE_S_MAX)
    del door.neighbours.routes[("acme", "double")]
    door.neighbours.tell()

    async def gone() -> bool:
        return (await door.ask())[0] is Code.NOT_FOUND

    await eventually(gone, within_s=LIVE_S_MAX)


async def test_a_bad_configuration_never_reaches_envoy(door: Door) -> None:
    before = {file: file.read_bytes() for file in door.home.glob("*.json")}
    for name in ("bad.pem", "bad.key"):
        (door.folder / name).write_text("no certificate")
    told = {
        "BASALT_DOOR_CERT": str(door.folder / "bad.pem"),
        "BASALT_DOOR_KEY": str(door.folder / "bad.key"),
    }
    await asyncio.to_thread(door.gateway.stop)
    door.gateway.environment |= told
    await asyncio.to_thread(door.gateway.start)

    async def refused() -> str:
        async with door.channel() as channel:
            report = await GatewayServiceStub(channel).GetDoor(
                gateway_pb2.GetDoorRequest(), metadata=door.bearer(), timeout=10
            )
            return report.refused

    reason = await eventually(refused, within_s=10)
    assert "Envoy refuses" in reason
    assert "last good one stays in force" in reason
    assert reason in (await health(door))["gateway"][1]
    assert await door.answers()
    assert {file: file.read_bytes() for file in door.home.glob("*.json")} == before


async def test_a_certificate_that_is_missing_stops_the_start_with_a_plain_message(
    door: Door,
) -> None:
    await asyncio.to_thread(door.gateway.stop)
    for file in door.home.glob("*.json"):
        file.unlink()
    port = free_ports(1)[0]
    environment = {
        **door.gateway.environment,
        "BASALT_DOOR_CERT": str(door.folder / "no.pem"),
        "BASALT_DOOR_KEY": str(door.folder / "no.key"),
        "BASALT_RPC_LISTEN": f"127.0.0.1:{port}",
    }
    door.gateway.environment = environment
    with pytest.raises(Exception, match=r"(?s)gateway cannot start: .*no\.(pem|key)"):
        await asyncio.to_thread(door.gateway.start)
    assert not (door.home / "envoy.json").exists()
