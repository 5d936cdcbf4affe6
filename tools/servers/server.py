"""What every server here has in common: know one, know all five."""

import http.client
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from libs.common.unix import http_connection
from tools.servers.cache import Report, silent
from tools.servers.child import Child, Privacy
from tools.servers.errors import ServerError
from tools.servers.ports import remembered_ports, require_free

PROBE_S_MAX = 2.0


class Server(ABC):
    """One server process whose data, log and ports live in `directory`.

    `start`, `kill` and `start` again recovers the data at the same addresses; so does another
    object on the same directory.
    """

    name: ClassVar[str]
    READY_S_MAX: ClassVar[float] = 60.0
    STOP_S_MAX: ClassVar[float] = 15.0

    def __init__(self, directory: Path, ports: Mapping[str, int | None]) -> None:
        self.directory = directory.absolute()
        self.ports = remembered_ports(self.directory, ports)
        self.log = self.directory / f"{self.name}.log"
        self._child: Child | None = None

    @abstractmethod
    def obtain(self, report: Report = silent) -> Path:
        """Make sure the pinned version is in the cache; cheap when it is. Returns its folder."""

    @abstractmethod
    def _prepare(self) -> None:
        """Write what the server reads at its start."""

    @abstractmethod
    def _command(self) -> list[str | Path]: ...

    @abstractmethod
    def _ready(self) -> bool: ...

    def _environment(self) -> dict[str, str]:
        return plain_environment()

    def _privacy(self) -> Privacy | None:
        """What it has to itself of what users of a machine share; most servers need nothing."""
        return None

    def _clean(self) -> None:  # noqa: B027 - most servers leave nothing.
        """Remove what a dead server leaves outside its directory."""

    def start(self) -> Self:
        """Returns when the server answers. Obtains it first where that was not done."""
        if self.alive:
            raise ServerError(self.name, "it is running already", "stop it first")
        self.obtain()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        require_free(self.name, self.ports, self.directory)
        self._clean()
        self._prepare()
        self._child = Child(
            self.name,
            self._command(),
            log=self.log,
            environment=self._environment(),
            directory=self.directory,
            privacy=self._privacy(),
        )
        self._child.wait_until_ready(self._ready, self.READY_S_MAX)
        return self

    def stop(self) -> None:
        """End it as its makers intend, or by force when that takes too long. Repeatable."""
        if self._child is not None:
            self._child.stop(self.STOP_S_MAX)
            self._clean()

    def kill(self) -> None:
        """SIGKILL, with no chance to say goodbye: what a power cut does."""
        if self._child is not None:
            self._child.kill()
            self._clean()

    def answers(self) -> bool:
        """Whether it serves at this moment, whoever started it."""
        return self._ready()

    @property
    def pid(self) -> int:
        if self._child is None:
            raise ServerError(self.name, "it was never started", "call start()")
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    def is_halted(self) -> bool:
        """Whether it is there and was stopped (SIGSTOP)."""
        return self._child is not None and self._child.is_halted()

    def __enter__(self) -> Self:
        return self if self.alive else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def plain_environment() -> dict[str, str]:
    """The user's environment without what would change how a server behaves."""
    kept = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "TZ")
    return {name: os.environ[name] for name in kept if name in os.environ}


def answers_ok(address: str, path: str) -> bool:
    """Whether a GET of host:port or unix:PATH answers 200 at this moment.

    Proxies of the environment are not asked.
    """
    connection = http_connection(address, PROBE_S_MAX)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
