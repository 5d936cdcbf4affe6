"""The whole platform for tests: every server and service as `basalt up` runs them.

In two editions: the laptop's own, and the one that `make test-real` adds, whose state is in MinIO
and on a server that speaks MongoDB's protocol. A test that asks for a platform runs on both.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from libs.common.kafka import KafkaAccess
from standalone.home import Home
from standalone.processes import Edition, Process, ServiceProcess, Stores, lay_out
from standalone.supervisor import Supervisor
from tools.servers import FerretDB, MinIO
from tools.servers.waiting import wait_until

START_S_MAX = 120.0
STOP_S_MAX = 60.0
BACK_S_MAX = 60.0
EDITIONS = ["laptop", pytest.param("real", marks=pytest.mark.real)]
# Two platforms at once are more than a small machine carries: these tests run one by one.
PLATFORM_TESTS = (
    "tests/e2e/",
    "tests/flow/test_one_trace.py",
    "tests/chaos/",
    "tests/faults/test_comes_back.py",
    "tests/faults/test_dependencies_down.py",
    "tests/faults/test_story_survives.py",
)


class Laptop:
    """An installation in a folder of its own, supervised from a thread."""

    def __init__(self, root: Path, edition: str = "laptop", faketime: Path | None = None) -> None:
        """`faketime` is the library of that name: with it the clock of our processes can be set."""
        self.home = Home.at(root)
        self._faketime = faketime
        self._stores = Stores.in_folder(root) if edition == "laptop" else on_servers(root)
        self.servers = tuple(server.name for server in self._stores.servers)
        self.changes: list[tuple[str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._claim = ExitStack()
        self._lay_out()

    def _lay_out(self) -> None:
        self.edition: Edition = lay_out(self.home, stores=self._stores)
        if self._faketime is not None:
            self.set_clock(0)
            for process in self.edition.processes:
                # The gateway asks Envoy, which cannot start with the library.
                if isinstance(process, ServiceProcess) and process.name != "gateway":
                    process.environment |= {
                        "LD_PRELOAD": str(self._faketime),
                        "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                        "FAKETIME_NO_CACHE": "1",
                        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                    }
        self._supervisor = Supervisor(
            self.home, self.edition, lambda name, state, _: self.changes.append((name, state))
        )

    @property
    def _clock(self) -> Path:
        return self.home.root / "clock"

    def set_clock(self, ahead_s: int) -> None:
        """Of the dispatcher and all services but the gateway, at once; 0 is right."""
        fresh = self._clock.with_suffix(".new")
        fresh.write_text(f"{ahead_s:+d}\n")
        fresh.replace(self._clock)

    @property
    def door(self) -> str:
        return self.edition.door

    @property
    def kafka(self) -> str:
        return self.edition.kafka

    def kafka_of(self, service: str) -> KafkaAccess:
        """As that service comes to Kafka, with its rights."""
        return KafkaAccess(self.kafka, service, self.home.secrets.kafka_passwords[service])

    def start(self) -> None:
        self._claim.enter_context(self.home.claimed())
        self._thread.start()
        self._supervise(self._supervisor.start(), START_S_MAX)

    def stop(self) -> None:
        self._supervise(self._supervisor.stop(), STOP_S_MAX)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._claim.close()

    def lose_supervisor(self) -> None:
        """SIGKILL to all that it keeps, as when it dies itself; then somebody starts it again.

        That its processes end with it is for tests/e2e/test_laptop.py to show.
        """

        async def die() -> None:
            self._supervisor.kill()
            await self._supervisor.stop()

        self._supervise(die(), STOP_S_MAX)
        self._lay_out()
        self._supervise(self._supervisor.start(), START_S_MAX)

    def _supervise(self, work: Coroutine[Any, Any, None], within_s: float) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(within_s)

    def process(self, name: str) -> Process:
        return next(process for process in self.edition.processes if process.name == name)

    def kill(self, name: str) -> int:
        """SIGKILL to a process; the supervisor brings it back. Returns the pid that died."""
        pid = self.process(name).pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def freeze(self, name: str) -> None:
        """SIGSTOP: it is there and does not answer, and nobody notices until `thaw`."""
        process = self.process(name)
        process.answers = lambda: True  # pyright: ignore[reportAttributeAccessIssue]
        process.is_halted = lambda: False  # pyright: ignore[reportAttributeAccessIssue]
        os.kill(process.pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        process = self.process(name)
        os.kill(process.pid, signal.SIGCONT)
        del process.answers, process.is_halted

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Within it the process is dead and does not come back; afterwards it does."""
        process = self.process(name)
        start, may_come_back = process.start, threading.Event()

        def start_later() -> object:
            may_come_back.wait()
            return start()

        process.start = start_later  # pyright: ignore[reportAttributeAccessIssue]
        ready = self.changes.count((name, "ready"))
        self.kill(name)
        try:
            yield
        finally:
            process.start = start  # pyright: ignore[reportAttributeAccessIssue]
            may_come_back.set()
            came_back = wait_until(lambda: self.changes.count((name, "ready")) > ready, BACK_S_MAX)
            assert came_back, f"{name} did not come back:\n{self.log(name)}"

    @asynccontextmanager
    async def away(self, name: str) -> AsyncIterator[None]:
        """As `without`, for those who go on with other work meanwhile."""
        without = self.without(name)
        await asyncio.to_thread(without.__enter__)
        try:
            yield
        finally:
            await asyncio.to_thread(without.__exit__, None, None, None)

    def log(self, name: str) -> str:
        """The end of what a process wrote."""
        log = self.process(name).log
        return log.read_text(errors="replace")[-4_000:] if log.exists() else ""


def on_servers(root: Path) -> Stores:
    """All state in MinIO and in FerretDB, which are two more processes of the platform."""
    minio, ferretdb = MinIO(root / "minio"), FerretDB(root / "ferretdb")
    return Stores(
        {
            "BASALT_JOURNAL": f"{ferretdb.url}basalt",
            "BASALT_OBJECTS": f"s3:{minio.url}/basalt",
            "BASALT_CHECKPOINTS": f"s3:{minio.url}/basalt-checkpoints",
            "BASALT_S3_ACCESS_KEY": minio.access_key,
            "BASALT_S3_SECRET_KEY": minio.secret_key,
        },
        servers=(minio, ferretdb),
    )


@contextmanager
def running(edition: str, faketime: Path | None = None) -> Iterator[Laptop]:
    with tempfile.TemporaryDirectory(prefix="basalt-") as folder:
        platform = Laptop(Path(folder), edition, faketime)
        try:
            platform.start()
            yield platform
        finally:
            platform.stop()


@pytest.fixture(scope="session", params=EDITIONS)
def laptop(request: pytest.FixtureRequest) -> Iterator[Laptop]:
    """One platform for every test of a pytest process that only uses it."""
    with running(request.param) as platform:
        yield platform


@pytest.fixture(scope="module", params=EDITIONS)
def own_laptop(request: pytest.FixtureRequest) -> Iterator[Laptop]:
    """A platform for the tests of one file, which harm it."""
    with running(request.param) as platform:
        yield platform


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Nobody has a platform beside the others' without it being known."""
    for item in items:
        asks = {"laptop", "own_laptop"} & set(getattr(item, "fixturenames", ()))
        if asks and not item.nodeid.startswith(PLATFORM_TESTS):
            raise pytest.UsageError(f"{item.nodeid} uses a platform: name it in {__name__}.")


class OnePlatformAtATime(LoadScopeScheduling):
    """With several workers, one of them has all tests of a platform; the others share the rest.

    The marks by which pytest-xdist 3.8 groups tests have no effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "platform" if nodeid.startswith(PLATFORM_TESTS) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OnePlatformAtATime:
    return OnePlatformAtATime(config, log)
