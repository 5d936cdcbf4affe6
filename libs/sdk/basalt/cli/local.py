"""What runs on this machine, seen without asking the platform."""

from __future__ import annotations

import fcntl
import ipaddress
import socket

from basalt import session
from basalt.pb.basalt.v1 import health_pb2, monitoring_pb2

CONNECT_S_MAX = 2.0
OUTSIDE = "this command"


def supervised() -> bool:
    """Whether `basalt up` runs here: it holds the lock of its installation as long as it lives."""
    try:
        with (session.installation() / "basalt.pid").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def is_here(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def accepts(endpoint: str) -> str:
    """Why nobody can be connected to at this address; "" when somebody accepts."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S_MAX).close()
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error).lower()
    return ""


def seen_from_outside(endpoint: str) -> monitoring_pb2.GetPlatformHealthResponse:
    """The platform's health as far as it shows at its ports, for when monitoring cannot tell."""
    refused = accepts(endpoint)
    found = [_component("door", f"Nobody answers at {endpoint}: {refused}." if refused else "")]
    if is_here(endpoint):
        found += _processes()
    wrong_first = sorted(found, key=lambda each: each.state == health_pb2.HEALTH_STATE_SERVING)
    return monitoring_pb2.GetPlatformHealthResponse(
        state=wrong_first[0].state, components=wrong_first
    )


def _processes() -> list[health_pb2.ComponentHealth]:
    try:
        from standalone.looking import problems
    except ImportError:  # Only the client is installed here.
        return []
    if not supervised():
        return [_component("basalt up", f"It does not run for {session.installation()}.")]
    up = _component("basalt up", "")
    return [
        up,
        *(_component(name, problem) for name, problem in problems(session.installation()).items()),
    ]


def _component(name: str, problem: str) -> health_pb2.ComponentHealth:
    state = health_pb2.HEALTH_STATE_NOT_SERVING if problem else health_pb2.HEALTH_STATE_SERVING
    return health_pb2.ComponentHealth(
        component=name, state=state, reported_by=OUTSIDE, problem=problem
    )
