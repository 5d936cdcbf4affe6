"""A consumer in a process of its own, to be killed: python -m tests.support.bus_consumer …

It notes each event it begins and ends in a file, and hangs in the handler of the one it is told.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import IO

from libs.common.bus import Bus, Router
from libs.common.events import DatasetVersioned
from libs.common.flow import Topic
from libs.common.kafka import KafkaAccess
from tests.support.topics import make_for


def note(file: IO[str], line: str) -> None:
    file.write(line + "\n")
    file.flush()
    os.fsync(file.fileno())


async def consume(bootstrap: str, name: str, group: str, notes: str, hangs_at: str) -> None:
    topic = Topic(name, DatasetVersioned, "ingest", (group,), ("tenant", "dataset"), 3_600_000, 2)
    router = Router(group)
    with open(notes, "a") as file:  # noqa: ASYNC230 - a line now and then.

        @router.subscriber(topic)
        async def handle(event: DatasetVersioned) -> None:
            note(file, f"began {event.id}")
            if event.id == hangs_at:
                await asyncio.Event().wait()
            note(file, f"ended {event.id}")

        bus = Bus(KafkaAccess(bootstrap), router)
        await make_for(bus)
        await bus.start()
        note(file, f"serving {bus.problem}".rstrip())
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(consume(*sys.argv[1:]))
