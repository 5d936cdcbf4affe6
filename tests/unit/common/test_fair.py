"""Nobody waits longer than its share, whatever the others ask for."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.fair import Gate, Turns
from tests.support.eventually import eventually

TENANTS = "abcde"
SHARES = st.dictionaries(st.sampled_from(TENANTS), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
WAITING = st.lists(st.sampled_from(TENANTS), max_size=60).map(
    lambda tenants: [(tenant, (tenant, number)) for number, tenant in enumerate(tenants)]
)


def taken(turns: Turns, waiting: list[tuple[str, tuple[str, int]]]) -> list[tuple[str, int]]:
    """One after the other, each time the first of those that still wait."""
    found: list[tuple[str, int]] = []
    waiting = list(waiting)
    while waiting:
        first = turns.order(waiting)[0]
        turns.took(first[0])
        waiting.remove((first[0], first))
        found.append(first)
    return found


@given(SHARES, WAITING, WAITING)
def test_the_order_that_is_told_is_the_order_that_comes(
    shares: dict[str, float],
    before: list[tuple[str, tuple[str, int]]],
    waiting: list[tuple[str, tuple[str, int]]],
) -> None:
    turns = Turns(shares)
    taken(turns, before)
    told = turns.order(waiting)
    assert sorted(told) == sorted(item for _, item in waiting)
    assert told == taken(turns, waiting)


@given(SHARES, WAITING)
def test_a_tenants_own_keep_their_order(
    shares: dict[str, float], waiting: list[tuple[str, tuple[str, int]]]
) -> None:
    order = Turns(shares).order(waiting)
    for tenant in TENANTS:
        numbers = [number for whose, number in order if whose == tenant]
        assert numbers == sorted(numbers)


@given(SHARES, st.lists(st.sampled_from(TENANTS), max_size=30), st.integers(1, 40))
def test_who_always_waits_has_its_share_at_any_time(
    shares: dict[str, float], before: list[str], rounds: int
) -> None:
    """The bound of the paper: no two are further apart than a turn of each."""
    turns = Turns(shares)
    for tenant in before:
        turns.took(tenant)
    had: Counter[str] = Counter()
    began = {tenant: turns.start(tenant) for tenant in TENANTS}
    # Level from the moment on in which all of them wait and none is still ahead.
    for _ in range(rounds * len(TENANTS)):
        tenant = min(TENANTS, key=turns.start)
        if all(turns.start(each) >= max(began.values()) for each in TENANTS):
            had[tenant] += 1
        turns.took(tenant)
    for one in TENANTS:
        for other in TENANTS:
            one_share, other_share = shares.get(one, 1.0), shares.get(other, 1.0)
            apart = abs(had[one] / one_share - had[other] / other_share)
            assert apart <= 1 / one_share + 1 / other_share + 1e-9


@pytest.mark.parametrize("already", [0, 1, 500])
def test_who_comes_after_a_thousand_of_another_is_next(already: int) -> None:
    turns = Turns()
    for _ in range(already):
        turns.took("many")
    waiting = [("many", f"many {number}") for number in range(1_000)] + [("one", "one 0")]
    assert turns.order(waiting).index("one 0") <= 1
    turns.took("many")
    assert turns.order(waiting[1:])[0] == "one 0"


def test_nobody_saves_turns_up_by_not_asking() -> None:
    turns = Turns()
    for _ in range(100):
        turns.took("steady")
    order = turns.order([("idle", "idle")] * 10 + [("steady", "steady")] * 10)
    assert order[:6].count("steady") >= 2


class Calls:
    """Calls that stay inside a gate until they are let go."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._go = asyncio.Semaphore(0)

    def call(self, tenant: str, times: int = 1) -> None:
        self.tasks += [asyncio.create_task(self._one(tenant)) for _ in range(times)]

    async def _one(self, tenant: str) -> None:
        async with self.gate.turn(tenant):
            self.inside.append(tenant)
            await self._go.acquire()

    def go(self, times: int = 1) -> None:
        for _ in range(times):
            self._go.release()

    async def end(self) -> None:
        self.go(len(self.tasks))
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_another_tenant_finds_room_at_once() -> None:
    calls = Calls(Gate(at_once=4, tenant_at_once=2))
    calls.call("many", 200)
    await eventually(lambda: calls.inside == ["many"] * 2)
    calls.call("one", 3)
    await eventually(lambda: calls.inside == ["many"] * 2 + ["one"] * 2)
    await calls.end()
    assert Counter(calls.inside) == {"many": 200, "one": 3}


async def test_a_full_gate_lets_in_whoever_is_next_by_fair_turns() -> None:
    calls = Calls(Gate(at_once=1, tenant_at_once=1))
    calls.call("many", 50)
    await eventually(lambda: calls.inside == ["many"])
    calls.call("one", 2)
    await asyncio.sleep(0)
    for _ in range(4):
        before = len(calls.inside)
        calls.go()
        await eventually(lambda before=before: len(calls.inside) > before)
    assert calls.inside[1:5].count("one") == 2
    await calls.end()


async def test_whoever_goes_away_takes_no_turn() -> None:
    calls = Calls(Gate(at_once=1, tenant_at_once=1))
    calls.call("one")
    await eventually(lambda: calls.inside == ["one"])
    calls.call("gone", 5)
    calls.call("one")
    await asyncio.sleep(0)
    for task in calls.tasks[1:6]:
        task.cancel()
    # One of them is called in the very moment in which it goes.
    calls.go()
    await asyncio.gather(*calls.tasks[1:6], return_exceptions=True)
    await eventually(lambda: calls.inside == ["one", "one"])
    await calls.end()
    async with calls.gate.turn("next"):
        pass


async def test_a_call_that_fails_leaves_its_room() -> None:
    gate = Gate(at_once=1, tenant_at_once=1)
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"):
            async with gate.turn("one"):
                raise ValueError("inside")
