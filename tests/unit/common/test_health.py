"""A service's health: what it depends on is asked, and none may keep the answer waiting."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from libs.common.clock import SystemClock
from libs.common.errors import DependencyError
from libs.common.health import Check, Health
from libs.common.pb.basalt.v1 import health_pb2 as pb


@dataclass
class Part:
    name: str = "relay"
    problem: str = ""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


async def fine() -> None: ...


async def away() -> None:
    raise DependencyError("Kafka does not answer.", which="kafka", next_step="Start it.")


async def broken() -> None:
    raise ZeroDivisionError


async def hanging() -> None:
    await asyncio.Event().wait()


async def ask(*checks: Check, watched: tuple[Part, ...] = ()) -> dict[str, pb.ComponentHealth]:
    health = Health("ingest", SystemClock(), checks, watched)
    answer = await health.GetServiceHealth(pb.GetServiceHealthRequest(), None)
    return {component.component: component for component in answer.components}


async def test_all_is_well() -> None:
    found = await ask(Check("kafka", fine), watched=(Part(),))

    assert list(found) == ["ingest", "kafka"]
    assert {each.state for each in found.values()} == {pb.HEALTH_STATE_SERVING}
    assert {each.reported_by for each in found.values()} == {"ingest"}
    assert not any(each.problem for each in found.values())


async def test_a_dependency_that_is_away_is_named_with_what_to_do() -> None:
    found = await ask(Check("journal", fine), Check("kafka", away))

    assert found["kafka"].state == pb.HEALTH_STATE_NOT_SERVING
    assert found["kafka"].problem == "Kafka does not answer. Start it."
    assert found["journal"].state == pb.HEALTH_STATE_SERVING


async def test_a_check_that_fails_or_hangs_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("libs.common.health.CHECK_TIMEOUT_S", 0.05)

    found = await ask(Check("triton", broken), Check("objects", hanging), Check("kafka", fine))

    # What kind of fault of ours it is, is for our own logs.
    assert "a fault of ours" in found["triton"].problem
    assert "ZeroDivisionError" not in found["triton"].problem
    assert "No answer" in found["objects"].problem
    assert found["kafka"].state == pb.HEALTH_STATE_SERVING


async def test_parts_that_have_a_problem_make_the_service_degraded() -> None:
    found = await ask(watched=(Part(problem="Events wait."), Part(problem="Keys are old.")))

    assert found["ingest"].state == pb.HEALTH_STATE_DEGRADED
    assert found["ingest"].problem == "Events wait. Keys are old."
