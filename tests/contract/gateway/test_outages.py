"""Parts of the door killed or away: what goes on, what is told, what comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc

from libs.common.pb.basalt.v1 import health_pb2
from tests.support.door import Door, Neighbours, health, outcome, request
from tests.support.eventually import eventually
from tools.servers import Kafka, Triton

Code = grpc.StatusCode
DEADLINE_S = 5.0


async def test_the_door_goes_on_without_its_control_plane_and_neighbours(door: Door) -> None:
    os.kill(door.gateway.pid, signal.SIGKILL)
    await door.neighbours.stop()
    async with door.inference() as stub:
        ends: Counter[Code] = Counter()
        for _ in range(200):
            call = stub.ModelInfer(request([[1, 2]]), metadata=door.bearer(), timeout=5)
            ends[(await outcome(call))[0]] += 1
    assert ends == {Code.OK: 200}

    # It starts without security and inference too, and by what it remembers.
    await asyncio.to_thread(door.gateway.stop)
    await asyncio.to_thread(door.gateway.start)
    assert await door.answers()
    await door.neighbours.start()
    door.neighbours.route("acme", "double", {2: 100})

    async def second() -> bool:
        async with door.inference() as stub:
            call = stub.ModelInfer(request([[1, 2]]), metadata=door.bearer(), timeout=5)
            return (await call).model_version == "2"

    await eventually(second, within_s=15)


async def test_a_dead_dispatcher_is_told_within_the_deadline_and_comes_back(door: Door) -> None:
    os.kill(door.dispatcher.pid, signal.SIGKILL)
    started = time.monotonic()

    async def unavailable() -> str:
        code, message = await door.ask(timeout_s=DEADLINE_S)
        return message if code is Code.UNAVAILABLE else ""

    message = await eventually(unavailable, within_s=DEADLINE_S)
    assert time.monotonic() - started < DEADLINE_S
    assert "dispatcher" in message

    async def reported() -> bool:
        state, _ = (await health(door))["dispatcher"]
        return state == health_pb2.HEALTH_STATE_NOT_SERVING

    await eventually(reported)
    await asyncio.to_thread(door.dispatcher.stop)
    await asyncio.to_thread(door.dispatcher.start)
    await eventually(door.answers, within_s=10)

    async def well() -> bool:
        states = {state for state, _ in (await health(door)).values()}
        return states == {health_pb2.HEALTH_STATE_SERVING}

    await eventually(well, within_s=10)


async def test_a_killed_envoy_comes_back_by_its_files(door: Door) -> None:
    before = await health(door)
    assert before["envoy"][0] == health_pb2.HEALTH_STATE_SERVING
    door.envoy.kill()
    assert (await health(door))["envoy"][0] == health_pb2.HEALTH_STATE_NOT_SERVING
    await asyncio.to_thread(door.envoy.start)
    await eventually(door.answers, within_s=10)
    assert (await health(door))["envoy"][0] == health_pb2.HEALTH_STATE_SERVING


async def test_without_triton_callers_are_told_so(kafka: Kafka, tmp_path_factory: object) -> None:
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        neighbours = Neighbours()
        await neighbours.start()
        absent = Triton(Path(folder) / "triton")  # It is never started.
        door = Door(Path(folder), kafka.bootstrap, neighbours, absent)
        try:
            await door.start()
            neighbours.route("acme", "double", {1: 100})

            async def unavailable() -> str:
                code, message = await door.ask(timeout_s=15)
                return message if code is Code.UNAVAILABLE else ""

            assert "Triton" in await eventually(unavailable, within_s=20)
            assert (await health(door))["triton"][0] == health_pb2.HEALTH_STATE_NOT_SERVING
        finally:
            await door.stop()
            await neighbours.stop()


async def test_before_the_first_keys_the_door_says_that_it_has_none(
    kafka: Kafka, models: Triton
) -> None:
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        neighbours = Neighbours()  # Nobody listens yet.
        door = Door(Path(folder), kafka.bootstrap, neighbours, models)
        try:
            await door.start()
            code, message = await door.ask()
            assert code is Code.UNAVAILABLE
            assert "keys" in message
            neighbours.route("acme", "double", {1: 100})
            await neighbours.start()
            await eventually(door.answers, within_s=20)
        finally:
            await door.stop()
            await neighbours.stop()
