"""A child process: started with a log, awaited with a deadline, stopped for certain."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from tools.servers.errors import ServerError
from tools.servers.waiting import POLL_S, slowness, wait_until

LOG_BYTES_MAX = 16 * 1024 * 1024  # A larger log is set aside, once, at the next start.
LOG_TAIL_BYTES = 16 * 1024
LOG_TAIL_LINES = 20
LOG_FOLDER_MODE, LOG_MODE = 0o700, 0o600
KILLED_S_MAX = 10.0

_LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True)
class Privacy:
    """A /tmp and a /dev/shm that the process alone sees, where the kernel lets it.

    `temporary` is its /tmp; `kept` are folders that it has to see even where they lie below those.
    """

    temporary: Path
    kept: tuple[Path, ...] = ()

    def words(self) -> list[str]:
        return ["--private", str(self.temporary), *dict.fromkeys(map(str, self.kept))]


class Child:
    """One process in a session of its own, so that a Ctrl-C in the terminal does not reach it.

    It dies with this process, even when this process is killed. Its exit is not collected before
    `stop` or `kill` are done, so its number cannot meanwhile belong to somebody else.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str],
        directory: Path,
        privacy: Privacy | None = None,
    ) -> None:
        self._name = name
        self._log = log
        self._rotate_log()
        self._log_start = log.stat().st_size if log.exists() else 0
        leash = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid())]
        private = privacy.words() if privacy else []
        words = [*leash, *private, "--", *map(str, command)]
        self._process = _in_lasting_thread(
            lambda: _spawn(words, log=log, environment=environment, directory=directory)
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        if self._process.returncode is not None:
            return False
        try:
            # WNOWAIT only looks: the process stays a zombie until `_collect`.
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return ended is None

    def is_halted(self) -> bool:
        """Whether somebody stopped it (SIGSTOP): it lives and does nothing."""
        with contextlib.suppress(OSError, IndexError):
            stat = Path(f"/proc/{self.pid}/stat").read_text()
            # The name before it may hold anything, blanks and brackets too: proc(5).
            return stat.rpartition(")")[2].split()[0] in ("T", "t")
        return False

    def wait_until_ready(self, ready: Callable[[], bool], seconds_max: float) -> None:
        """Return when `ready` holds. When the child dies or is too slow, end it and say why.

        A busy machine is given longer: to end what is slow and begin again makes it busier.
        """
        began = time.monotonic()
        while not ready():
            if not self.alive:
                status = self._collect()
                raise self._error(f"ended with status {status} before it was ready")
            took_s = time.monotonic() - began
            if took_s >= seconds_max * slowness():
                self.kill()
                raise self._error(f"was not ready within {took_s:.3g} s")
            time.sleep(POLL_S)

    def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL for what is left after the grace."""
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)
            wait_until(lambda: not self.alive, grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the process and to what it started itself; returns when it is gone."""
        if self._process.returncode is None:
            # Its session is its own, and as nobody has collected it, the number is still its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._collect()

    def log_tail(self) -> str:
        """The last lines that this run wrote."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def _collect(self) -> int:
        try:
            return self._process.wait(KILLED_S_MAX)
        except subprocess.TimeoutExpired as error:
            raise self._error(f"is still there {KILLED_S_MAX:g} s after SIGKILL") from error

    def _rotate_log(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True, mode=LOG_FOLDER_MODE)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES_MAX:
            self._log.replace(self._log.with_name(self._log.name + ".1"))

    def _error(self, what: str) -> ServerError:
        tail = self.log_tail() or "(it wrote nothing)"
        return ServerError(
            self._name, f"{what}; its last lines:\n{tail}", f"read the whole log: {self._log}"
        )


def _spawn(
    words: list[str], *, log: Path, environment: Mapping[str, str], directory: Path
) -> subprocess.Popen[bytes]:
    with open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, LOG_MODE), "ab") as output:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )


_Process = subprocess.Popen[bytes]
_Order = tuple[Callable[[], _Process], "Future[_Process]"]
_orders: dict[int, "queue.SimpleQueue[_Order]"] = {}
_orders_guard = threading.Lock()


def _in_lasting_thread(spawn: Callable[[], _Process]) -> _Process:
    """Spawn from a thread that lasts as long as this process.

    The kernel sends the parent-death signal when the *thread* that spawned ends. A caller in
    `asyncio.to_thread` would otherwise lose its servers with its event loop's worker threads.
    """
    with _orders_guard:
        orders = _orders.get(os.getpid())  # A forked process does not inherit the thread.
        if orders is None:
            orders = _orders[os.getpid()] = queue.SimpleQueue()
            threading.Thread(
                target=_work_off, args=(orders,), name="spawns-servers", daemon=True
            ).start()
    future: Future[_Process] = Future()
    orders.put((spawn, future))
    return future.result()


def _work_off(orders: "queue.SimpleQueue[_Order]") -> None:
    while True:
        spawn, future = orders.get()
        try:
            future.set_result(spawn())
        except BaseException as error:  # It is raised again at the caller.
            future.set_exception(error)
