"""What runs on this machine, seen without asking the platform."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
from typing import Any

from basalt import session
from basalt.pb.basalt.v1 import health_pb2, monitoring_pb2

CONNECT_S_MAX = 2.0
OUTSIDE = "this command"
UP = "basalt up"


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


def seen_from_outside(endpoint: str, silence: str = "") -> monitoring_pb2.GetPlatformHealthResponse:
    """The platform's health as far as it shows at its ports, for when monitoring does not tell.

    `silence` is what keeps monitoring from it, unless something that shows is the reason.
    """
    refused = accepts(endpoint)
    problems = {"door": f"Nobody answers at {endpoint}: {refused}." if refused else ""}
    # What serves here without `basalt up` is another edition, or somebody's tunnel to one.
    if is_here(endpoint) and (refused or supervised()):
        problems |= _processes()
    if silence and not any(problems.values()):
        problems["monitoring"] = silence
    wrong_first = sorted(problems, key=lambda name: not problems[name])
    components = [_component(name, problems[name]) for name in wrong_first]
    return monitoring_pb2.GetPlatformHealthResponse(
        state=components[0].state, components=components
    )


def happened(count_max: int) -> list[monitoring_pb2.PlatformEvent]:
    """What happened to the installation of this machine, newest first; it need not run."""
    try:
        from standalone.looking import happened as look
    except ImportError:  # Only the client is installed here.
        return []
    return [_event(each) for each in look(session.installation(), count_max)]


def _event(said: dict[str, Any]) -> monitoring_pb2.PlatformEvent:
    event = monitoring_pb2.PlatformEvent(
        **{name: value for name, value in said.items() if name != "at"}
    )
    event.at.FromDatetime(said["at"])
    return event


def _processes() -> dict[str, str]:
    try:
        from standalone.looking import problems
    except ImportError:  # Only the client is installed here.
        return {}
    if not supervised():
        return {UP: f"It does not run for {session.installation()}."}
    return {UP: "", **problems(session.installation())}


def _component(name: str, problem: str) -> health_pb2.ComponentHealth:
    state = health_pb2.HEALTH_STATE_NOT_SERVING if problem else health_pb2.HEALTH_STATE_SERVING
    return health_pb2.ComponentHealth(
        component=name, state=state, reported_by=OUTSIDE, problem=problem
    )
