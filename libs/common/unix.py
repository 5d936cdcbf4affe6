"""Unix sockets, `unix:PATH` where an address is asked for.

Who may connect to one, and who may listen there in its owner's place, is said by its folder. So
what is in a folder of mode 0700 needs no certificate, and nobody else ever gets what is sent to it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

from libs.common.files import PRIVATE, set_folder_aside

PREFIX = "unix:"
ANSWER_S_MAX = 1.0


def path_of(address: str) -> Path | None:
    """None where it is another kind of address."""
    return Path(address.removeprefix(PREFIX)) if address.startswith(PREFIX) else None


def answers(address: str) -> bool:
    """Whether somebody accepts connections at `unix:PATH` or host:port."""
    with contextlib.suppress(OSError), _connected(address):
        return True
    return False


def _connected(address: str) -> socket.socket:
    """Raises OSError."""
    path = path_of(address)
    if path is None:
        host, _, port = address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S_MAX)
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        asking.settimeout(ANSWER_S_MAX)
        asking.connect(str(path))
    except OSError:
        asking.close()
        raise
    return asking


def clear(path: Path) -> None:
    """Makes room for a socket: one of before goes, anything else is set aside. Raises OSError."""
    set_folder_aside(path)
    path.unlink(missing_ok=True)


def clear_address(address: str) -> str:
    """The same for an address where gRPC is to listen; of a port nothing has to go."""
    if (path := path_of(address)) is not None:
        clear(path)
    return address


def listener(path: Path, backlog: int) -> socket.socket:
    """In the place of one that an earlier process left. Raises OSError."""
    clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        path.chmod(PRIVATE)
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return listening


class UnixHTTPConnection(http.client.HTTPConnection):
    """HTTP/1.1 to who listens at a path."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def http_connection(address: str, timeout_s: float) -> http.client.HTTPConnection:
    """To `unix:PATH` or host:port. Not connected yet."""
    path = path_of(address)
    if path is not None:
        return UnixHTTPConnection(path, timeout_s)
    return http.client.HTTPConnection(address, timeout=timeout_s)
