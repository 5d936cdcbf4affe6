"""A service of small parts in a process of its own: python -m tests.support.run_service WHAT…

Each word is a part: "good", or what goes wrong in it. Parts say on standard output what they do.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass

from libs.common import runtime
from libs.common.errors import DependencyError
from libs.common.runtime import Service, lasting, run
from tests.support.eventually import pause

# So that the bounds are reached within a test.
runtime.START_S_MAX = 3.0
runtime.STOP_S_MAX = 1.0
runtime.EXIT_S_MAX = 3.0


async def fail(how: str) -> None:
    await pause(0.1)
    match how:
        case "task-fails":
            raise ZeroDivisionError
        case "task-is-cancelled":
            raise asyncio.CancelledError
        case _:
            return


@dataclass
class Part:
    name: str
    task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        print(f"start {self.name}", flush=True)
        match self.name:
            case "absent":
                raise DependencyError(
                    "Kafka cannot be used.", which="kafka", next_step="Start it first."
                )
            case "start-hangs":
                await asyncio.Event().wait()
            case "task-fails" | "task-is-cancelled" | "task-returns":
                self.task = lasting(fail(self.name), self.name)

    async def stop(self) -> None:
        print(f"stop {self.name}", flush=True)
        match self.name:
            case "stop-fails":
                raise ZeroDivisionError
            case "stop-hangs":
                await asyncio.Event().wait()
            case "stop-is-stubborn":
                while True:
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        continue
            case "thread-hangs":
                asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)


@dataclass
class Ready:
    """The last part: everything before it has started."""

    name: str = "ready"

    async def start(self) -> None:
        print("serving", flush=True)

    async def stop(self) -> None:
        """It only tells."""


if __name__ == "__main__":
    run(Service("tested", [*(Part(name) for name in sys.argv[1:]), Ready()]))
