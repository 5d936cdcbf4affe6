"""How long it takes until everything answers again: each process killed and stopped, one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from apps.hospital.story import MODEL, Story
from basalt.errors import BasaltError
from basalt.pb.basalt.v1 import common_pb2, ingest_pb2, security_pb2, trainer_pb2
from tests.chaos.run import BACK_S_MAX, back
from tests.support.eventually import pause
from tests.support.laptop import Laptop

HARMS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
CALL_S_MAX = 2.0
# Between two harms: a process that has just come back is brought back later the next time.
QUIET_S = 3.0


@dataclass(frozen=True)
class Recovery:
    harm: str
    process: str
    took_s: float


async def measured(platform: Laptop, story: Story, rounds: int) -> list[Recovery]:
    found: list[Recovery] = []
    for _ in range(rounds):
        for harm, number in HARMS.items():
            for process in platform.edition.processes:
                await pause(QUIET_S)
                began = time.monotonic()
                os.kill(process.pid, number)
                await back(platform)
                await _served(story)
                found.append(Recovery(harm, process.name, time.monotonic() - began))
    return found


async def _served(story: Story) -> None:
    """Returns once each service answers a user at the door, and the model too."""
    people, page = story.people, common_pb2.PageRequest(size=1)
    engineer, administrator = people.engineer, people.administrator
    row = story.held_out.values[0]
    asked = {
        "a prediction": lambda: people.application.load_model(MODEL).predict(
            row, timeout_s=CALL_S_MAX
        ),
        "ingest": lambda: engineer.call(
            engineer.ingest.ListSources,
            ingest_pb2.ListSourcesRequest(page=page),
            timeout_s=CALL_S_MAX,
        ),
        "trainer": lambda: engineer.call(
            engineer.trainer.ListJobs, trainer_pb2.ListJobsRequest(page=page), timeout_s=CALL_S_MAX
        ),
        "security": lambda: administrator.call(
            administrator.identity.ListUsers,
            security_pb2.ListUsersRequest(page=page),
            timeout_s=CALL_S_MAX,
        ),
    }
    async with asyncio.timeout(BACK_S_MAX):
        for ask in asked.values():
            while True:
                try:
                    await ask()
                except BasaltError:
                    await pause(0.05)
                else:
                    break


def table(found: Iterable[Recovery]) -> Iterator[str]:
    by_row: dict[tuple[str, str], list[float]] = {}
    for each in found:
        by_row.setdefault((each.harm, each.process), []).append(each.took_s)
        by_row.setdefault((each.harm, "all"), []).append(each.took_s)
    yield f"{'harm':<5} {'process':<12} {'times':>5} {'median s':>9} {'slowest s':>10}"
    for (harm, process), times in sorted(by_row.items(), key=lambda row: max(row[1])):
        slowest, median = max(times), statistics.median(times)
        yield f"{harm:<5} {process:<12} {len(times):>5} {median:>9.1f} {slowest:>10.1f}"
