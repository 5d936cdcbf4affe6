"""Wrong passwords cost whoever sends them, and nobody else; and turns are fair."""

import asyncio

import pytest

from libs.common.errors import LimitError
from services.security.core import throttle as throttle_module
from services.security.core.throttle import (
    FORGET_S,
    WAIT_OF_ADDRESS_S_MAX,
    WAIT_S_MAX,
    WRONG_PASSWORDS_MAX,
    WRONG_PASSWORDS_OF_ADDRESS_MAX,
    Throttle,
)
from services.security.core.turns import FairTurns
from tests.support.clock import HeldClock
from tests.support.eventually import eventually

HOME, STRANGER = "198.51.100.7", "203.0.113.9"


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
def throttle(clock: HeldClock) -> Throttle:
    return Throttle(clock)


def tried(throttle: Throttle, address: str, name: str = "ann", right: bool | None = False) -> bool:
    """Whether a password was judged; None: it was admitted, and then there was no judgement."""
    try:
        with throttle.attempt(address, "acme", name) as attempt:
            if right is not None:
                attempt.judged(right=right)
    except LimitError:
        return False
    return True


def test_a_stranger_keeps_nobody_out_but_themselves(throttle: Throttle) -> None:
    while tried(throttle, STRANGER):
        pass
    for _ in range(1_000):
        assert not tried(throttle, STRANGER)
    assert not tried(throttle, STRANGER, right=True)
    assert tried(throttle, HOME, right=True)
    assert tried(throttle, STRANGER, name="ben", right=True)


def test_each_further_wrong_one_waits_longer_up_to_the_most(
    throttle: Throttle, clock: HeldClock
) -> None:
    for _ in range(WRONG_PASSWORDS_MAX):
        assert tried(throttle, STRANGER)
    waits: list[float] = []
    for _ in range(12):
        waited = 0.0
        while not tried(throttle, STRANGER):
            clock.pass_s(1)
            waited += 1
        waits.append(waited)
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == WAIT_S_MAX
    clock.pass_s(FORGET_S + 1)
    assert [tried(throttle, STRANGER) for _ in range(WRONG_PASSWORDS_MAX + 1)][-2:] == [True, False]


def test_what_was_not_judged_counts_nothing(throttle: Throttle) -> None:
    for _ in range(100):
        assert tried(throttle, HOME, right=None)
    assert tried(throttle, HOME, right=True)


def test_many_at_once_are_no_way_around(throttle: Throttle) -> None:
    with pytest.raises(LimitError) as refused:
        admit_within(throttle, WRONG_PASSWORDS_MAX + 1)
    assert refused.value.which == "WRONG_PASSWORDS_MAX"
    assert refused.value.next_step
    assert tried(throttle, HOME, right=True), "None of them was judged."


def admit_within(throttle: Throttle, count: int) -> None:
    """So many attempts that are being judged at the same time."""
    if count:
        with throttle.attempt(HOME, "acme", "ann"):
            admit_within(throttle, count - 1)


def test_whoever_tries_many_names_waits_by_their_address(
    throttle: Throttle, clock: HeldClock
) -> None:
    assert tried(throttle, STRANGER, name="ann", right=True)
    for number in range(WRONG_PASSWORDS_OF_ADDRESS_MAX):
        assert tried(throttle, STRANGER, name=f"name-{number}")
    assert not tried(throttle, STRANGER, name="one-more")
    # Who came in from there before goes on, from a shared address, too.
    assert tried(throttle, STRANGER, name="ann", right=True)
    assert tried(throttle, HOME, name="one-more")
    for number in range(100):
        clock.pass_s(WAIT_OF_ADDRESS_S_MAX)
        assert tried(throttle, STRANGER, name=f"more-{number}")


def test_a_right_password_clears_the_count_of_its_name(throttle: Throttle) -> None:
    for _ in range(3):
        for _ in range(WRONG_PASSWORDS_MAX - 1):
            assert tried(throttle, HOME)
        assert tried(throttle, HOME, right=True)


def test_a_network_of_ipv6_is_one_address(throttle: Throttle) -> None:
    results = [tried(throttle, f"2001:db8::{number:x}") for number in range(1, 20)]
    assert results.count(True) == WRONG_PASSWORDS_MAX
    assert tried(throttle, "2001:db8:0:1::1")


def test_what_is_remembered_is_bounded(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle_module, "REMEMBERED_MAX", 50)
    for number in range(500):
        tried(throttle, f"10.0.{number // 250}.{number % 250}", name=f"name-{number}")
        tried(throttle, f"10.1.{number // 250}.{number % 250}", right=True)
    for remembered in (throttle._by_name, throttle._by_address, throttle._came_in):
        assert len(remembered) <= 50


# Turns.


class Work:
    """Work that goes on until it is told to end, and who had a turn in which order."""

    def __init__(self, *limits: int) -> None:
        self.turns = FairTurns(*limits)
        self.had: list[str] = []
        self.end = asyncio.Semaphore(0)

    async def do(self, address: str) -> None:
        async with self.turns.turn(address):
            self.had.append(address)
            await self.end.acquire()

    def begin(self, address: str, count: int = 1) -> list[asyncio.Task[None]]:
        return [asyncio.ensure_future(self.do(address)) for _ in range(count)]


async def settle(*tasks: asyncio.Task[None]) -> list[bool]:
    """Whether each was refused."""
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(end is None or isinstance(end, LimitError) for end in ends), ends
    return [isinstance(end, LimitError) for end in ends]


async def test_addresses_take_turns_however_many_wait_of_one() -> None:
    work = Work(1, 64, 64)
    flood = work.begin("flood", 20)
    await eventually(lambda: len(work.had) == 1)
    owner = work.begin("owner", 2)
    await asyncio.sleep(0)
    for _ in range(22):
        work.end.release()
    assert not any(await settle(*flood, *owner))
    assert work.had[:5] == ["flood", "flood", "owner", "flood", "owner"]


async def test_where_too_many_wait_those_of_the_flood_give_way() -> None:
    work = Work(1, 4, 4)
    flood = work.begin("flood", 5)
    await eventually(lambda: len(work.had) == 1)
    more = work.begin("flood")
    assert await settle(*more) == [True]
    owner = work.begin("owner")
    await asyncio.sleep(0)
    for _ in range(10):
        work.end.release()
    assert await settle(*owner) == [False]
    assert sorted(await settle(*flood)) == [False] * 4 + [True]


async def test_who_goes_away_while_waiting_takes_no_turn() -> None:
    work = Work(1, 8, 8)
    first, gone, last = work.begin("a")[0], work.begin("b")[0], work.begin("c")[0]
    await eventually(lambda: len(work.had) == 1)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    for _ in range(4):
        work.end.release()
    assert not any(await settle(first, last))
    assert work.had == ["a", "c"]
    again = work.begin("d")
    assert not any(await settle(*again))
