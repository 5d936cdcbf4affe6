"""`basalt up` as a user runs it: a process of its own, in a folder and on ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.terminal import COMMAND, environment
from tools.servers.ports import free_ports

READY_S_MAX = 120.0
# What the product promises of Ctrl-C.
STOP_S_MAX = 15.0


@dataclass
class Up:
    """The ports are chosen at the first start only: the installation remembers them."""

    home: Path
    options: tuple[str, ...] = ()
    door: str = ""
    kafka: str = ""
    process: subprocess.Popen[str] | None = None
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def on_free_ports(cls, home: Path) -> Up:
        door, kafka = free_ports(2)
        return cls(home, ("--port", str(door), "--kafka-port", str(kafka)))

    def begin(self, umask: int = -1) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [*COMMAND, "up", "--json", *self.options],
            env=environment({"BASALT_HOME": str(self.home), **self.settings}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            umask=umask,
        )
        return self.process

    def start(self, umask: int = -1) -> dict[str, Any]:
        """What it prints when it is ready; started with the umask of the tests, or this one."""
        process = self.begin(umask)
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], READY_S_MAX)
        line = process.stdout.readline() if ready else ""
        if not line:
            process.kill()
            raise AssertionError(f"It did not come up: {process.communicate()}")
        said = json.loads(line)
        self.door, self.kafka = said["door"], said["kafka"]
        return said

    def end(self, by: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Its status, and what it said on its standard error."""
        assert self.process is not None
        self.process.send_signal(by)
        _, complaint = self.process.communicate(timeout=STOP_S_MAX)
        return self.process.returncode, complaint

    def left_running(self) -> list[str]:
        """What lives of this installation, whoever started it."""
        return [
            f"{process.pid} {' '.join(words[:6])}"
            for process, words in processes_of(self.home).items()
        ]

    def clear(self) -> None:
        """However a test ended, nothing is left running."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        for process in processes_of(self.home):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def processes_of(home: Path) -> dict[psutil.Process, list[str]]:
    """Processes that have the folder among their words, settings or open files' folder; the words.

    What ends while it is looked at is not among them.
    """
    found: dict[psutil.Process, list[str]] = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            places = [*words, *process.environ().values(), process.cwd()]
            mine = process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if not mine and any(str(home) in place for place in places):
            found[process] = words
    return found
