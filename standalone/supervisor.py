"""Starts the edition's processes in stages, brings back those that die, stops them all."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack
from typing import Any

from libs.common.disk import Disk
from libs.common.history import HistoryFile
from standalone.home import Home
from standalone.keeper import Keeper, Report, in_thread
from standalone.processes import Edition
from standalone.recorder import SUPERVISOR, Recorder
from tools.servers.errors import ServerError
from tools.servers.ports import FREED_S_MAX, held, is_free
from tools.servers.waiting import wait_until

DOOR_OPEN_S_MAX = 30.0
DISK_LOOK_S = 5.0
# Each stage's share of the 15 s that a stop may take, in the order of the stop: the door lets calls
# under way finish, services publish what they have, servers write what they hold. What is left
# then is killed.
STOP_SHARES_S = (4.0, 6.0, 3.5)
LAST_S_MAX = 1.0
# By which option of `basalt up` a listener's port is chosen.
OPTIONS = {"door": "--port", "kafka": "--kafka-port"}
# Kafka does not share a port with who holds it. Its clients send nothing to who cannot prove, by
# SCRAM, that it knows their password.
NOT_HELD = ("kafka",)


class Supervisor:
    def __init__(self, home: Home, edition: Edition, report: Report) -> None:
        self._home = home
        self._edition = edition
        self._recorder = Recorder(HistoryFile(home.history, SUPERVISOR), report)
        self._disk_watch: asyncio.Task[None] | None = None
        self._held = ExitStack()
        self._stages: list[list[Keeper]] = []
        one_at_a_time = asyncio.Lock()
        for stage in edition.stages:
            earlier = self._keepers()
            self._stages.append(
                [Keeper(each, self._recorder, earlier, one_at_a_time) for each in stage]
            )

    async def start(self) -> None:
        """Returns when every process serves and the door is open.

        Raises ServerError, or is cancelled; then nothing is left running.
        """
        try:
            await in_thread(self._take_ports)
            self._home.remember(self._edition.ports)
            for stage in self._stages:
                await _all(keeper.start() for keeper in stage)
            await in_thread(self._await_door)
        except BaseException:
            await self.stop()
            raise
        self._home.has_begun()
        for keeper in self._keepers():
            keeper.watch()
        self._disk_watch = asyncio.create_task(self._watch_disk())

    async def stop(self) -> None:
        """Ends every process, the ones that others depend on last; within 15 s, come what may."""
        if self._disk_watch is not None:
            self._disk_watch.cancel()
        for keeper in self._keepers():
            keeper.give_up()
        for stage, share_s in zip(reversed(self._stages), STOP_SHARES_S, strict=True):
            stopping = [asyncio.create_task(keeper.stop()) for keeper in stage]
            _, late = await asyncio.wait(stopping, timeout=share_s)
            for keeper in stage if late else ():
                keeper.kill()
            if late:
                await asyncio.wait(late, timeout=LAST_S_MAX)
        self._held.close()

    def kill(self) -> None:
        """Ends every process at once, as a power cut would; a `stop` under way then returns."""
        for keeper in self._keepers():
            keeper.give_up()
            keeper.kill()

    async def _watch_disk(self) -> None:
        """Notes that the installation's disk gets full before what is written to it fails."""
        low_since: float | None = None
        while True:
            try:
                Disk.require_room(self._home.root)
            except Exception as error:
                if low_since is None:
                    low_since = time.monotonic()
                    self._recorder.note("disk", "low", str(error))
            else:
                if low_since is not None:
                    took_s = time.monotonic() - low_since
                    self._recorder.note("disk", "has room again", took_s=took_s)
                    low_since = None
            await asyncio.sleep(DISK_LOOK_S)

    def _keepers(self) -> list[Keeper]:
        return [keeper for stage in self._stages for keeper in stage]

    def _take_ports(self) -> None:
        """What cannot work is said before anything is started.

        From here on no other user gets a port of ours when its process is away for a moment.
        """
        for listener, port in self._edition.ports.items():
            # One that ended a moment ago may still have it.
            if not wait_until(lambda port=port: is_free(port), FREED_S_MAX):
                raise self._taken(listener, port)
            if listener not in NOT_HELD:
                try:
                    self._held.enter_context(held(port))
                except OSError as error:
                    raise self._taken(listener, port) from error

    def _taken(self, listener: str, port: int) -> ServerError:
        option = OPTIONS.get(listener)
        return ServerError(
            "basalt",
            f"the port {port} of {listener} is in use by another process",
            "end that process, or "
            + (
                f"choose another port: `basalt up {option} PORT`"
                if option
                else f"remove {self._home.root / 'ports.json'}; new ones are chosen then"
            ),
        )

    def _await_door(self) -> None:
        if not wait_until(self._edition.door_is_open, DOOR_OPEN_S_MAX):
            raise ServerError(
                "envoy",
                f"the door {self._edition.door} did not open within {DOOR_OPEN_S_MAX:.0f} s",
                f"read the logs: {self._home.logs / 'gateway.log'}, {self._home.root / 'envoy'}",
            )


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
