"""Keeps one process: starts it, asks it again and again whether it serves, brings it back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from standalone.processes import Process
from tools.servers.errors import ServerError
from tools.servers.server import Server
from tools.servers.waiting import load_of_machine

WATCH_S = 0.2
RESTART_S = 0.2
RESTART_S_MAX = 10.0
# A process that lived this long has recovered: its next restart is quick again.
RECOVERED_S = 30.0
# Alive is not enough: so often each process is asked to answer a real call,
PROBE_EVERY_S = 1.0
# within this time; a call that takes longer is one without an answer.
PROBE_S_MAX = 1.5
# One late answer is nothing. After so many in a row the process is ended and started again,
SILENCES_MAX = 3
# after twice as many each time that it was silent again soon, up to so many,
SILENCES_MAX_MAX = 48
# until it has answered for so long.
PATIENT_S = 300.0
# With so many processes in line for each CPU everybody answers late, and twice as many are borne.
LOAD_MAX = 4.0
# A process that somebody stopped (SIGSTOP) does not become slow: it is known at once.
STOPPED_LOOKS_MAX = 2
# What a process stands on is given so long to come back first.
EARLIER_S_MAX = 8.0

T = TypeVar("T")

# Called with a process's name, what became of it, and a detail for people. The states are getting,
# starting, ready, died, silent (it lives and does not answer), failed (it did not come back, and
# is tried again), stopped.
Report = Callable[[str, str, str], None]


class Keeper:
    """One process: started, watched, brought back, stopped; never two of these at a time.

    `earlier` are the keepers of what the process stands on. `one_at_a_time` is held while a process
    that is silent is brought back: when all are, it is the machine that is slow.
    """

    def __init__(
        self,
        process: Process,
        report: Report,
        earlier: Sequence[Keeper] = (),
        one_at_a_time: asyncio.Lock | None = None,
    ) -> None:
        self._process = process
        self._report = report
        self._earlier = earlier
        self._one_at_a_time = one_at_a_time or asyncio.Lock()
        self._given_up = False
        # The start that is under way in a thread, if one is: it cannot be cancelled, only ended.
        self._starting: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        # Since when it does not serve; None while it does.
        self._down_since: float | None = None
        self._silences = Silences()

    @property
    def comes_back(self) -> bool:
        """Whether it is away and may be back at any moment."""
        since = self._down_since
        return since is not None and time.monotonic() - since < EARLIER_S_MAX

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

        self._starting = in_thread(begin)
        await asyncio.shield(self._starting)
        self._down_since = None
        self._tell("ready")

    def watch(self) -> None:
        if not self._given_up:
            self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Starts the process again, after twice as long each time it fails again soon."""
        pause_s, started, asked = RESTART_S, time.monotonic(), time.monotonic()
        while True:
            await asyncio.sleep(WATCH_S)
            if self._process.alive:
                if time.monotonic() - asked < PROBE_EVERY_S:
                    continue
                reason = await self._silent()
                asked = time.monotonic()
                if not reason:
                    continue
                async with self._one_at_a_time:
                    # Meanwhile another was brought back, and this one may have been late for it.
                    if await self._answers():
                        self._silences.forget()
                        continue
                    self._down_since = time.monotonic()
                    self._tell("silent", reason)
                    self._silences.bear_more()
                    # It hears no SIGTERM, and what it holds it has said so or lost already.
                    await in_thread(self._kill)
                    await self._bring_back()
                pause_s, started = RESTART_S, time.monotonic()
                continue
            if time.monotonic() - started > RECOVERED_S:
                pause_s = RESTART_S
            self._down_since = self._down_since or time.monotonic()
            self._tell("died")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_S_MAX)
            started = time.monotonic()
            await self._wait_for_earlier()
            await self._bring_back()

    async def _silent(self) -> str:
        """Why the process has to be brought back; "" while it answers, or may yet."""
        if any(each.comes_back for each in self._earlier):
            self._silences.forget()
            return ""
        if self._process.is_halted():
            return self._silences.stopped()
        answers = await self._answers()
        if answers:
            self._silences.forget()
            return ""
        return self._silences.another(late=answers is None)

    async def _answers(self) -> bool | None:
        """None when it is late; False when it can be known at once, as by a socket that is gone."""
        try:
            return await asyncio.wait_for(in_thread(self._process.answers), PROBE_S_MAX)
        except TimeoutError:
            return None
        except Exception:
            # No descriptor is left, say: whatever it was, the next look may tell.
            return None

    async def _wait_for_earlier(self) -> None:
        # Each comes back within EARLIER_S_MAX, or is waited for no longer.
        while any(each.comes_back for each in self._earlier):  # noqa: ASYNC110 - others' clocks.
            await asyncio.sleep(WATCH_S)

    async def _bring_back(self) -> None:
        try:
            await in_thread(self._process.stop)
            await self.start()
        # A full disk, a child that hangs: whatever it was, the next round tries again.
        except Exception as error:
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
                await in_thread(self._process.stop)
                await asyncio.wait({self._starting}, timeout=WATCH_S)
            # That it was ended is no news.
            self._starting.exception()
            await in_thread(self._process.stop)
            self._tell("stopped")

    def kill(self) -> None:
        self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ServerError):
            self._process.kill()

    def _tell(self, state: str, detail: str = "") -> None:
        # What a start under way reports is no news after the end of all.
        if not self._given_up or state == "stopped":
            self._report(self._process.name, state, detail)


class Silences:
    """How many calls in a row a process has left unanswered, and how many are borne."""

    def __init__(
        self,
        load: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load or load_of_machine
        self._monotonic = monotonic
        self._count = 0
        self._stopped = 0
        self._late = False
        self._borne = SILENCES_MAX
        self._answering_since = monotonic()

    def another(self, *, late: bool = True) -> str:
        """Why that was too many; "" when it was not. Who is not late is not slow either."""
        self._stopped = 0
        self._count += 1
        self._late = self._late or late
        borne = SILENCES_MAX
        if self._late:
            borne = self._borne * (2 if self._load() > LOAD_MAX else 1)
        if self._count < borne:
            return ""
        return f"It lives, and has left {self._count} calls in a row unanswered."

    def stopped(self) -> str:
        self._stopped += 1
        if self._stopped < STOPPED_LOOKS_MAX:
            return ""
        return "It lives, and was stopped (SIGSTOP)."

    def forget(self) -> None:
        """It has answered, or cannot be blamed."""
        if self._count or self._stopped:
            self._answering_since = self._monotonic()
        elif self._monotonic() - self._answering_since > PATIENT_S:
            self._borne = SILENCES_MAX
        self._count = self._stopped = 0
        self._late = False

    def bear_more(self) -> None:
        """It is brought back: if it is soon silent again, it is rather slow than hung."""
        if not self._stopped and self._late:
            self._borne = min(self._borne * 2, SILENCES_MAX_MAX)
        self._count = self._stopped = 0
        self._late = False
        self._answering_since = self._monotonic()


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
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
