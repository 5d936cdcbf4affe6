"""`basalt down`: stop the installation that runs here, and remove it when asked to."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from standalone.home import Home, default_root
from tools.servers.errors import ServerError
from tools.servers.waiting import wait_until

STOP_S_MAX = 30.0


@dataclass(frozen=True)
class Ended:
    """What was done. `left` are files in the folder that are not the platform's."""

    home: str
    existed: bool
    stopped: bool
    purged: bool
    left: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if not self.existed:
            return f"There is no installation in {self.home}; nothing to do."
        done = "It is stopped." if self.stopped else "It was not running."
        if not self.purged:
            return f"{done} All state is kept in {self.home}."
        if self.left:
            return f"{done} The installation is removed; {self.home} keeps {', '.join(self.left)}."
        return f"{done} {self.home} and everything in it is removed."


def stop(root: Path | None, *, purge: bool) -> Ended:
    """Raises ServerError when it does not stop, or cannot be removed."""
    home = Home((root or default_root()).expanduser().absolute())
    pid = home.running_pid()
    if pid is None and home.is_claimed():
        raise ServerError(
            "basalt",
            f"the installation runs, and {home.pid_file} does not say in which process",
            "end it where it was started, by Ctrl-C",
        )
    if pid is None and not home.pid_file.exists():
        return Ended(str(home.root), existed=False, stopped=False, purged=False)
    if pid is not None:
        _end(home, pid)
    left: tuple[str, ...] = ()
    if purge:
        try:
            # So that nobody starts it again meanwhile.
            with home.claimed():
                left = home.purge()
        except OSError as error:
            raise ServerError(
                "basalt",
                f"{error.filename or home.root} cannot be removed: {error.strerror or error}",
                "remove it by hand, as the user whose it is",
            ) from error
    return Ended(str(home.root), existed=True, stopped=pid is not None, purged=purge, left=left)


def _end(home: Home, pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        raise ServerError(
            "basalt", f"process {pid} is another user's", "ask them to end it"
        ) from error
    except ProcessLookupError:
        return
    if not wait_until(lambda: home.running_pid() != pid, STOP_S_MAX):
        raise ServerError(
            "basalt",
            f"process {pid} is still there after {STOP_S_MAX:.0f} s",
            f"look at {home.logs}, then end it by its number",
        )
