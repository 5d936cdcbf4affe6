"""Starts the edition's processes in stages, brings back those that die, stops them all."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from standalone.home import Home
from standalone.processes import Edition, Process
from tools.servers.errors import ServerError
from tools.servers.ports import FREED_S_MAX, is_free
from tools.servers.server import Server
from tools.servers.waiting import wait_until

WATCH_S = 0.2
RESTART_S = 0.2
RESTART_S_MAX = 10.0
# A process that lived this long has recovered: its next restart is quick again.
RECOVERED_S = 30.0
DOOR_OPEN_S_MAX = 30.0
# Each stage's share of the 15 s that a stop may take, in the order of the stop: the door lets calls
# under way finish, services publish what they have, servers write what they hold. What is left
# then is killed.
STOP_SHARES_S = (4.0, 6.0, 3.5)
LAST_S_MAX = 1.0

T = TypeVar("T")

# Called with a process's name, what became of it, and a detail for people. The states are getting,
# starting, ready, died, failed (it did not come back, and is tried again), stopped.
Report = Callable[[str, str, str], None]


class Supervisor:
    def __init__(self, home: Home, edition: Edition, report: Report) -> None:
        self._home = home
        self._edition = edition
        self._stages = [[Keeper(each, report) for each in stage] for stage in edition.stages]

    async def start(self) -> None:
        """Returns when every process serves and the door is open.

        Raises ServerError, or is cancelled; then nothing is left running.
        """
        try:
            await _in_thread(self._require_ports)
            self._home.remember(self._edition.ports)
            for stage in self._stages:
                await _all(keeper.start() for keeper in stage)
            await _in_thread(self._await_door)
        except BaseException:
            await self.stop()
            raise
        for keeper in self._keepers():
            keeper.watch()

    async def stop(self) -> None:
        """Ends every process, the ones that others depend on last; within 15 s, come what may."""
        for keeper in self._keepers():
            keeper.give_up()
        for stage, share_s in zip(reversed(self._stages), STOP_SHARES_S, strict=True):
            stopping = [asyncio.create_task(keeper.stop()) for keeper in stage]
            _, late = await asyncio.wait(stopping, timeout=share_s)
            for keeper in stage if late else ():
                keeper.kill()
            if late:
                await asyncio.wait(late, timeout=LAST_S_MAX)

    def kill(self) -> None:
        """Ends every process at once, as a power cut would; a `stop` under way then returns."""
        for keeper in self._keepers():
            keeper.give_up()
            keeper.kill()

    def _keepers(self) -> list[Keeper]:
        return [keeper for stage in self._stages for keeper in stage]

    def _require_ports(self) -> None:
        """What cannot work is said before anything is started."""
        for option, port in self._edition.chosen_ports.items():
            # One that ended a moment ago may still hold it.
            if not wait_until(lambda port=port: is_free(port), FREED_S_MAX):
                raise ServerError(
                    "basalt",
                    f"the port {port} is in use by another process",
                    f"end that process, or choose another port: `basalt up {option} PORT`",
                )

    def _await_door(self) -> None:
        if not wait_until(self._edition.door_is_open, DOOR_OPEN_S_MAX):
            raise ServerError(
                "envoy",
                f"the door {self._edition.door} did not open within {DOOR_OPEN_S_MAX:.0f} s",
                f"read the logs: {self._home.logs / 'gateway.log'}, {self._home.root / 'envoy'}",
            )


class Keeper:
    """One process: started, watched, brought back, stopped; never two of these at a time."""

    def __init__(self, process: Process, report: Report) -> None:
        self._process = process
        self._report = report
        self._given_up = False
        # The start that is under way in a thread, if one is: it cannot be cancelled, only ended.
        self._starting: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises ServerError when it does not come up, or was given up meanwhile."""
        loop = asyncio.get_running_loop()

        def tell(state: str, detail: str = "") -> None:
            loop.call_soon_threadsafe(self._tell, state, detail)

        def begin() -> None:
            if isinstance(self._process, Server):
                self._process.obtain(lambda step, done, of: tell("getting", f"{step} {done}/{of}"))
            if self._given_up:
                raise ServerError(self._process.name, "it was told to stop", "start it again")
            tell("starting")
            self._process.start()

        self._starting = _in_thread(begin)
        await asyncio.shield(self._starting)
        self._tell("ready")

    def watch(self) -> None:
        if not self._given_up:
            self._watcher = asyncio.create_task(self._bring_back())

    async def _bring_back(self) -> None:
        """Starts the process again, after twice as long each time it dies again soon."""
        pause_s = RESTART_S
        started = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            if self._process.alive:
                continue
            if time.monotonic() - started > RECOVERED_S:
                pause_s = RESTART_S
            self._tell("died")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_S_MAX)
            started = time.monotonic()
            try:
                await _in_thread(self._process.stop)
                await self.start()
            # A full disk is an OSError; whatever it was, the next round tries again.
            except (ServerError, OSError) as error:
                self._tell("failed", str(error))

    def give_up(self) -> None:
        """From now on it is not started any more."""
        self._given_up = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def stop(self) -> None:
        self.give_up()
        if self._starting is not None:
            # A start that is under way ends as soon as its process does.
            while not self._starting.done():
                await _in_thread(self._process.stop)
                await asyncio.wait({self._starting}, timeout=WATCH_S)
            # That it was ended is no news.
            self._starting.exception()
            await _in_thread(self._process.stop)
            self._tell("stopped")

    def kill(self) -> None:
        with contextlib.suppress(ServerError):
            self._process.kill()

    def _tell(self, state: str, detail: str = "") -> None:
        # What a start under way reports is no news after the end of all.
        if not self._given_up or state == "stopped":
            self._report(self._process.name, state, detail)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Raises the first failure as soon as there is one; the rest is still under way then."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Like asyncio.to_thread, in a thread that does not keep this process from ending.

    A download that is under way when everything is to end is simply left.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.cancelled():
            outcome()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failure = error
            outcome: Callable[[], None] = lambda: future.set_exception(failure)  # noqa: E731
        else:
            outcome = lambda: future.set_result(result)  # noqa: E731
        # The loop may be closed by now; then nobody waits for it any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, daemon=True).start()
    return future


def told_to_stop(again: Callable[[], None]) -> asyncio.Event:
    """Set at the first SIGINT or SIGTERM; at each one after it `again` is called."""
    stopping = asyncio.Event()

    def take() -> None:
        if stopping.is_set():
            again()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, take)
    return stopping
