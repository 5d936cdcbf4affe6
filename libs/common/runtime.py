"""How a service lives: parts started in order, stopped in the opposite one, within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, cast
from weakref import WeakSet

import structlog

from libs.common import telemetry, work
from libs.common.echo import LOG_CHARACTERS_MAX, short
from libs.common.errors import BasaltError, DependencyError

START_S_MAX = 60.0
# All parts together. Docker and Kubernetes kill after 10 to 30 s, `basalt up` after 15.
STOP_S_MAX = 11.0
# A part that comes late in the stop still gets this, whatever the others took.
STOP_S_MIN = 0.5
# After this a process that is still there (a thread that hangs) ends itself the hard way.
EXIT_S_MAX = STOP_S_MAX + 2.0
CANCEL_AGAIN_S = 0.5
# Containers start in any order: this long a store that is not there yet is waited for.
STORE_S_MAX = 10.0
STORE_TRY_AGAIN_S = 0.5
# The end of a traceback is what tells.
TRACEBACK_CHARACTERS_MAX = 16_000
# Of a log line, what has lines of its own.
_OURS = frozenset({"exception"})

log = structlog.get_logger(__name__)


class Part(Protocol):
    """Something with a beginning and an end: a server, a consumer, a loop, a connection."""

    @property
    def name(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Closing:
    """A part that only has an end, such as a store."""

    name: str
    close: Callable[[], Awaitable[None]]

    async def start(self) -> None:
        """Opened by the composition root."""

    async def stop(self) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class Keeping:
    """A store: asked for at the start, so that one that is not there is named at once."""

    name: str
    ping: Callable[[], Awaitable[None]]
    close: Callable[[], Awaitable[None]]

    async def start(self) -> None:
        """Raises DependencyError when the store is not there within STORE_S_MAX."""
        give_up_at = time.monotonic() + STORE_S_MAX
        while True:
            try:
                await self.ping()
            except DependencyError:
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(STORE_TRY_AGAIN_S)
            else:
                return

    async def stop(self) -> None:
        await self.close()


async def ended(task: asyncio.Task[Any] | None) -> None:
    """Cancels a task and returns once it has ended, whatever it ended with; None never began.

    Python 3.11's wait_for may lose a cancellation, and so may a library: it is said again.
    """
    if task is None:
        return
    expected(task)
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN_S)
    if not task.cancelled():
        task.exception()


def lasting(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task of a part that lives as long as the part does. It handles what may fail by itself.

    When it ends all the same, be it that a library cancels it, the service would live on without it
    and look well: then the process ends, and whoever keeps it starts it again, whole.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_look_at)
    return task


def expected(task: asyncio.Task[Any]) -> None:
    """From now on it may end."""
    _expected.add(task)


def _look_at(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("task_failed", task=task.get_name(), exc_info=error)
    elif task in _expected or _on_fault is None:
        return
    else:
        log.error("task_failed", task=task.get_name(), error="It ended, and nobody asked it to.")
    if _on_fault is not None:
        _on_fault(task.get_name())


_expected: WeakSet[asyncio.Task[Any]] = WeakSet()


# Ends the process that `run` runs; elsewhere nobody's.
_on_fault: Callable[[str], None] | None = None


@dataclass(slots=True)
class Loop:
    """Calls `work` again and again, `interval_s` apart; a failure is logged and tried again.

    `problem` says what failed last, for the service's health.
    """

    name: str
    work: Callable[[], Awaitable[object]]
    interval_s: float
    problem: str = ""
    _task: asyncio.Task[None] | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> None:
        self._task = lasting(self._run(), self.name)

    async def stop(self) -> None:
        await ended(self._task)

    def wake(self) -> None:
        """Does the next round now."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.work()
                self.problem = ""
            except Exception as error:
                self.problem = str(error)
                known = isinstance(error, BasaltError)
                said = error.whole if isinstance(error, BasaltError) else str(error)
                log.warning("loop_failed", loop=self.name, error=said, exc_info=not known)
            try:
                # wait_for of Python 3.11 may lose a cancellation.
                async with asyncio.timeout(self.interval_s):
                    await self._wake.wait()
            except TimeoutError:
                continue


@dataclass(frozen=True, slots=True)
class Service:
    """A whole service, as its composition root built it. What is first in `parts` stops last.

    uvloop starts processes with fork(), whose child sometimes dies of gRPC's threads before it
    becomes the other program; asyncio's own loop uses vfork(). So `event_loop` is uvloop's only
    for a process that starts none and needs the speed.
    """

    name: str
    parts: Sequence[Part]
    otlp: str = ""
    otlp_token: str = field(default="", repr=False)
    log_level: str = "info"
    # Where temporary files lie: `work.begin`.
    work: Path | None = None
    event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


def run(service: Service) -> None:
    """Runs until SIGTERM or SIGINT. Exits 1, with one plain line, when a part cannot start or ends.

    A stop is bounded by STOP_S_MAX; a process that cannot end (a thread hangs) is ended.
    """
    log_to_stderr(service.name, service.log_level)
    with _refusal_in_one_line(service.name):
        # Before gRPC has threads: they read the environment, which nobody may change meanwhile.
        work.begin(service.work)
    flush_spans = telemetry.set_up(service.name, service.otlp, service.otlp_token)
    try:
        with (
            _refusal_in_one_line(service.name),
            asyncio.Runner(loop_factory=service.event_loop) as runner,
        ):
            runner.run(_live(service))
    finally:
        flush_spans()


@contextlib.contextmanager
def _refusal_in_one_line(service: str) -> Iterator[None]:
    try:
        yield
    except BasaltError as error:
        print(f"{service} cannot start: {error.whole}", file=sys.stderr)
        raise SystemExit(1) from None


async def _live(service: Service) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    failed: list[str] = []

    def end(task: str) -> None:
        failed.append(task)
        stopping.set()

    global _on_fault
    _on_fault = end
    started: list[Part] = []
    try:
        if await _start(service.parts, started, stopping):
            log.info("serving", parts=[part.name for part in started])
            await stopping.wait()
    finally:
        _on_fault = None
        log.info("stopping")
        _end_for_certain(service.name)
        await _stop(started)
    if failed:
        print(f"{service.name} ends: its task {failed[0]} failed, as logged.", file=sys.stderr)
        raise SystemExit(1)


async def _start(parts: Sequence[Part], started: list[Part], stopping: asyncio.Event) -> bool:
    """Starts the parts in order; False when it was told to stop meanwhile."""
    told_to_stop = asyncio.create_task(stopping.wait())
    try:
        for part in parts:
            started.append(part)
            starting = asyncio.create_task(part.start(), name=f"start {part.name}")
            await asyncio.wait(
                {starting, told_to_stop},
                timeout=START_S_MAX,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if starting.done():
                starting.result()
                continue
            starting.cancel()
            await asyncio.wait({starting}, timeout=STOP_S_MIN)
            if told_to_stop.done():
                return False
            raise DependencyError(
                f"{part.name} did not start within {START_S_MAX:.0f} s.",
                which=part.name,
                next_step="Its log says what it waits for.",
            )
        return not told_to_stop.done()
    finally:
        told_to_stop.cancel()


async def _stop(parts: list[Part]) -> None:
    give_up_at = time.monotonic() + STOP_S_MAX
    for part in reversed(parts):
        stopping = asyncio.create_task(part.stop(), name=f"stop {part.name}")
        left_s = max(give_up_at - time.monotonic(), STOP_S_MIN)
        await asyncio.wait({stopping}, timeout=left_s)
        # The rest still has to be stopped, whatever became of this one.
        if not stopping.done():
            stopping.cancel()
            log.warning("stop_failed", part=part.name, error="It took too long.")
        elif not stopping.cancelled() and (error := stopping.exception()) is not None:
            log.warning("stop_failed", part=part.name, error=repr(error))


def _end_for_certain(service: str) -> None:
    def end() -> None:
        print(f"{service} did not end in {EXIT_S_MAX:.0f} s and is ended.", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)

    watchdog = threading.Timer(EXIT_S_MAX, end)
    watchdog.daemon = True
    watchdog.start()


def log_to_stderr(service: str, level: str) -> None:
    """JSON lines on standard error, each with the service's name and the trace it belongs to."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_trace,
            structlog.processors.format_exc_info,
            _bounded,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Lines(sys.stderr))),
    )
    # Libraries' own lines get lost as quietly.
    logging.raiseExceptions = False
    structlog.contextvars.bind_contextvars(service=service)


class _Lines:
    """Where lines may get lost: a disk that takes none must not change what the service does.

    A line is written amid other work, often as the first step of mending something.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def _bounded(
    _logger: object, _method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    """Whatever a caller sent fits into a line that people and programs can still read."""
    for key, value in event.items():
        if isinstance(value, str) and key not in _OURS:
            event[key] = short(value, LOG_CHARACTERS_MAX)
        elif isinstance(value, str):
            event[key] = value[-TRACEBACK_CHARACTERS_MAX:]
        elif value is not None and not isinstance(value, bool | int | float):
            event[key] = _shortened(value)
    return event


def _shortened(value: object) -> object:
    """A list or a mapping as it is, unless it is long; then its beginning as text."""
    text = str(value)
    return value if len(text) <= LOG_CHARACTERS_MAX else short(text, LOG_CHARACTERS_MAX)


def _with_trace(
    _logger: object, _method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    if trace_id := telemetry.trace_id():
        event["trace_id"] = trace_id
    return event
