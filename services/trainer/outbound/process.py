"""Training in a process of its own: JSON lines on its standard output, its log on the other.

The process asks the kernel to be killed when this one dies, so no orphan trains on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import psutil

from libs.common.wording import without_folders
from services.trainer.ports import (
    Checkpointed,
    Exited,
    Finished,
    Logged,
    Measured,
    Message,
    Place,
    ProcessLimits,
    Progressed,
    Refused,
)

WATCH_S = 0.25
LINE_BYTES_MAX = 1024 * 1024
# Lines that wait to be taken; a process that says more has to wait.
MESSAGES_MAX = 1_000
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# What the process gets of our environment. The one credential that it gets besides lets it send
# spans, and nothing else.
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")


@dataclass(slots=True)
class _Watch:
    """The most that was seen, and the limit that was passed."""

    over: str = ""
    resident_bytes_max: int = 0


@dataclass(frozen=True, slots=True)
class ProcessTraining:
    """`otlp` is where the process sends its spans; "" keeps them in."""

    otlp: str = ""
    otlp_token: str = field(default="", repr=False)

    async def run(
        self, place: Place, limits: ProcessLimits, traceparent: str
    ) -> AsyncGenerator[Message, None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.trainer.training",
            str(place.path),
            f"--parent={os.getpid()}",
            f"--threads={limits.threads}",
            f"--otlp={self.otlp}",
            env=self._environment(limits, traceparent),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        messages: asyncio.Queue[Message | None] = asyncio.Queue(MESSAGES_MAX)
        watch = _Watch()
        tasks = [
            asyncio.create_task(_hear(process, messages), name="training-messages"),
            asyncio.create_task(_watch(process, limits, watch), name="training-watch"),
        ]
        try:
            while (message := await messages.get()) is not None:
                yield message
            code = await process.wait()
            yield Exited(code, watch.over, watch.resident_bytes_max)  # pyright: ignore[reportArgumentType]
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await process.wait()

    def _environment(self, limits: ProcessLimits, traceparent: str) -> dict[str, str]:
        return {
            **{name: value for name in PASSED_ON if (value := os.environ.get(name))},
            **dict.fromkeys(THREAD_VARIABLES, str(limits.threads)),
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
            "TRACEPARENT": traceparent,
            "BASALT_OTLP_TOKEN": self.otlp_token,
        }


async def _hear(
    process: asyncio.subprocess.Process, messages: asyncio.Queue[Message | None]
) -> None:
    """Both outputs, until both are closed; then None."""

    async def messages_of(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            message = _message(line)
            if message is not None:
                await messages.put(message)

    async def log_of(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            # Its reader wrote the pipeline; where this machine keeps what runs is none of theirs.
            await messages.put(Logged(without_folders(line.decode(errors="replace").rstrip())))

    assert process.stdout is not None  # noqa: S101 - both are pipes.
    assert process.stderr is not None  # noqa: S101
    outcomes = await asyncio.gather(
        messages_of(process.stdout), log_of(process.stderr), return_exceptions=True
    )
    for outcome in outcomes:
        if isinstance(outcome, ValueError):  # A line over the limit: the rest cannot be heard.
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await messages.put(
                Refused(
                    f"The training process wrote a line of over {LINE_BYTES_MAX} bytes.",
                    next_step="Let the step's code log less at once.",
                )
            )
    await messages.put(None)


def _message(line: bytes) -> Message | None:
    """A line of the protocol (training/report.py writes them); another line is part of the log."""
    try:
        document: dict[str, Any] = json.loads(line)
        match document.pop("kind"):
            case "progress":
                return Progressed(**document)
            case "metrics":
                return Measured(**document)
            case "log":
                return Logged(without_folders(str(document["line"])))
            case "checkpoint":
                return Checkpointed(**document)
            case "finished":
                return Finished(**document)
            case "refused":
                return Refused(**document)
            case _:
                return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return Logged(line.decode(errors="replace").rstrip())


async def _watch(process: asyncio.subprocess.Process, limits: ProcessLimits, watch: _Watch) -> None:
    """Kills the process when it passes a limit.

    Memory is watched rather than limited by the kernel: torch reserves far more address space than
    it uses, so RLIMIT_AS would refuse it long before the machine is in need.
    """
    until = time.monotonic() + limits.time_s
    with contextlib.suppress(psutil.Error):
        watched = psutil.Process(process.pid)
        while True:
            resident = watched.memory_info().rss
            watch.resident_bytes_max = max(watch.resident_bytes_max, resident)
            if resident > limits.memory_bytes:
                watch.over = "memory"
            elif time.monotonic() > until:
                watch.over = "time"
            if watch.over:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                return
            await asyncio.sleep(WATCH_S)
