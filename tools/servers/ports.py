"""Loopback ports that a server keeps for as long as its directory exists."""

import errno
import json
import os
import random
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

from libs.common import unix
from tools.servers.errors import ServerError
from tools.servers.waiting import wait_until

LOOPBACK = "127.0.0.1"
# Below Linux's ephemeral range (from 32768), so that no outgoing connection takes a port between
# our look at it and the server's bind.
PORT_MIN = 20_000
PORT_MAX = 32_000
TCP_PORT_MAX = 65_535
FREED_S_MAX = 5.0
# A port is at risk from the moment it is chosen until its server binds it, seconds later: other
# processes that choose ports here leave it alone as long as its claim is among our latest.
CLAIMS_MAX = 256
_claims: deque[int] = deque()


def is_free(port: int) -> bool:
    """Whether a server could bind the port. Lingering closed connections do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nobody listens on or has just been given."""
    found: list[int] = []
    for port in _candidates():
        if len(found) == count:
            return found
        if is_free(port) and _claimed(port):
            found.append(port)
    raise ServerError(
        "ports",
        f"fewer than {count} free ports between {PORT_MIN} and {PORT_MAX}",
        "end servers that are no longer needed",
    )


def remembered_ports(directory: Path, wanted: Mapping[str, int | None]) -> dict[str, int]:
    """The port of each role: the wanted one, else the one of an earlier run, else a free one.

    A server that comes back after a crash has to be found where its clients look for it, so the
    answer is written to `ports.json` in the server's directory. Raises ServerError as
    `settled_ports` does.
    """
    settled = settled_ports(directory, wanted)
    remember_ports(directory, settled)
    return settled


def settled_ports(directory: Path, wanted: Mapping[str, int | None]) -> dict[str, int]:
    """Like `remembered_ports`, and nothing is written yet: a caller may still refuse them.

    Raises ServerError when two roles would have the same port, or `ports.json` is damaged.
    """
    earlier = earlier_ports(directory)
    # Before the free ones are chosen, so that none of these is among them.
    for port in (*earlier.values(), *filter(None, wanted.values())):
        _claimed(port)
    fresh = iter(free_ports(len(wanted)))
    settled = {role: port or earlier.get(role) or next(fresh) for role, port in wanted.items()}
    _require_different(settled, wanted, directory)
    return settled


def remember_ports(directory: Path, settled: Mapping[str, int]) -> None:
    """Write them where the next run looks for them."""
    file = _file(directory)
    content = json.dumps(dict(settled))
    if not file.exists() or file.read_text() != content:
        _write_whole(file, content)


def require_free(which: str, ports: Mapping[str, int], directory: Path) -> None:
    """Wait a moment for ports that a dying process still holds; then refuse."""
    for role, port in ports.items():
        if not wait_until(lambda port=port: is_free(port), FREED_S_MAX):
            raise ServerError(
                which,
                f"its {role} port {port} is in use by another process",
                f"end that process, choose another port, or delete {_file(directory)}",
            )


def held(port: int) -> socket.socket:
    """Keeps a port from everybody who is not of this user, until the answer is closed.

    It does not listen: whoever of this user does, with SO_REUSEPORT, gets every connection. To
    other users the port is in use, also while the one who should listen is away. Raises OSError.
    """
    holding = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # With SO_REUSEADDR anybody could bind it too, as long as nobody listens.
        holding.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holding.bind((LOOPBACK, port))
    except OSError:
        holding.close()
        raise
    return holding


def answers(port: int) -> bool:
    """Whether somebody accepts connections on the port."""
    return unix.answers(f"{LOOPBACK}:{port}")


def _file(directory: Path) -> Path:
    return directory / "ports.json"


def earlier_ports(directory: Path) -> dict[str, int]:
    """The remembered ones. Raises ServerError when `ports.json` is damaged."""
    file = _file(directory)
    if not file.exists():
        return {}
    try:
        ports = json.loads(file.read_text())
        if not isinstance(ports, dict) or not all(map(_is_port, ports.values())):
            raise ValueError("It is not a mapping of roles to ports.")
    except ValueError as error:
        raise ServerError(
            "ports",
            f"{file} is damaged; it should map each role to the number of its port",
            "remove the file; new ports are chosen then",
        ) from error
    return ports


def _is_port(value: object) -> bool:
    # True is an int too.
    return type(value) is int and 0 < value <= TCP_PORT_MAX


def _require_different(
    settled: Mapping[str, int], wanted: Mapping[str, int | None], directory: Path
) -> None:
    first: dict[int, str] = {}
    for role, port in settled.items():
        other = first.setdefault(port, role)
        if other == role:
            continue
        all_wanted = wanted[other] and wanted[role]
        raise ServerError(
            "ports",
            f"{other} and {role} would both have the port {port}",
            "choose another port for one of them"
            + ("" if all_wanted else f", or remove {_file(directory)}; new ones are chosen then"),
        )


def _claimed(port: int) -> bool:
    """Claim a port until this process ends or has claimed many others; False if it is another's.

    The claim is a name in Linux's abstract socket namespace: it spans what loopback spans, and
    the kernel drops it with its process, however that ends.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0basalt-port-{port}")
    except OSError as error:
        claim.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    # Only its number is kept: the interpreter's end warns of a socket that is still open.
    _claims.append(claim.detach())
    if len(_claims) > CLAIMS_MAX:
        os.close(_claims.popleft())
    return True


def _candidates() -> Iterator[int]:
    # Processes that start together must not try the same ports in the same order.
    order = random.Random(os.urandom(16))  # noqa: S311 - a choice of ports, not a secret.
    return iter(order.sample(range(PORT_MIN, PORT_MAX), PORT_MAX - PORT_MIN))


def _write_whole(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(content)
    partial.replace(file)
