"""One seed: load and monkey side by side, then everything is looked up again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from apps.hospital.story import Story
from tests.chaos.ledger import Ledger
from tests.chaos.monkey import Monkey
from tests.support.eventually import pause
from tests.support.laptop import Laptop

# What the load may take to end once nobody harms anything any more, and each look afterwards.
ENDING_S_MAX = 180.0
BACK_S_MAX = 120.0


@dataclass(frozen=True)
class Outcome:
    """A row of the table. `back_s` is from the last harm until everything answers."""

    seed: int
    harms: tuple[str, ...]
    back_s: float
    acknowledged: str
    kinds: Counter[str]
    wrong: str = ""

    def __str__(self) -> str:
        verdict = self.wrong or "holds"
        return (
            f"seed {self.seed:<4} {len(self.harms):>3} harms  back after {self.back_s:5.1f} s"
            f"  {self.acknowledged}  {verdict}"
        )


async def run(
    platform: Laptop,
    story: Story,
    seed: int,
    harm_s: float,
    *,
    small_disk: bool = False,
    clock: bool = False,
) -> Outcome:
    ledger = Ledger(story, seed)
    monkey = Monkey(platform, ledger, small_disk, clock)
    await ledger.begin()
    stop = asyncio.Event()
    load = asyncio.create_task(ledger.work(stop))
    try:
        await monkey.harm_for(harm_s)
        back_s = await back(platform)
        stop.set()
        async with asyncio.timeout(ENDING_S_MAX):
            await load
        wrong = await _wrong(ledger)
    except TimeoutError:
        back_s, wrong = BACK_S_MAX, f"the load did not end: {ledger.under_way}"
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
    counts = {
        "events": len(ledger.events),
        "uploads": len(ledger.uploaded),
        "users": len(ledger.users),
        "keys": len(ledger.keys),
        "deployments": ledger.deployed,
        "answers": ledger.answers["version 1"],
        "jobs": len(ledger.jobs),
    }
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return Outcome(seed, tuple(monkey.done), back_s, told, monkey.kinds, wrong)


async def back(platform: Laptop) -> float:
    """Seconds until every process answers a real call and the door is open."""
    began = time.monotonic()
    async with asyncio.timeout(BACK_S_MAX):
        while True:
            looks = [asyncio.to_thread(each.answers) for each in platform.edition.processes]
            looks.append(asyncio.to_thread(platform.edition.door_is_open))
            halted = any(each.is_halted() for each in platform.edition.processes)
            if all(await asyncio.gather(*looks)) and not halted:
                return time.monotonic() - began
            await pause(0.1)


async def _wrong(ledger: Ledger) -> str:
    looks = {
        "rows": ledger.rows_are_there_once,
        "users and keys": ledger.users_and_keys_are_there_once,
        "jobs": ledger.jobs_completed,
        "answers": ledger.answers_were_right,
        "audit": ledger.audit_chain_holds,
    }
    found: list[str] = []
    for name, look in looks.items():
        try:
            async with asyncio.timeout(ENDING_S_MAX):
                await look()
        except Exception as error:
            found.append(f"{name}: {error!r}")
    return "; ".join(found)
