"""Alive is not enough: what hangs, was stopped, or lost its files is brought back by itself."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import psutil
import pytest

from libs.common.history import read
from libs.common.settings import SERVICES
from libs.common.unix import path_of
from standalone.recorder import FAULTS
from tests.support.eventually import eventually
from tests.support.laptop import Laptop
from tools.servers import Kafka
from tools.servers.ports import LOOPBACK
from tools.servers.server import answers_ok

# On a quiet machine it is less than 10 s; this one may be busy with other tests.
BACK_S_MAX = 120.0


def stop(name: str) -> Callable[[Laptop], str]:
    def harm(platform: Laptop) -> str:
        os.kill(platform.process(name).pid, signal.SIGSTOP)
        return name

    return harm


def take_the_socket(platform: Laptop) -> str:
    (platform.home.door / "dispatcher.sock").unlink()
    return "dispatcher"


def move(folder: str, name: str) -> Callable[[Laptop], str]:
    """Whoever has a file in it open, or a socket, goes on with it, and nobody else finds it."""

    def harm(platform: Laptop) -> str:
        moved = platform.home.root / folder
        moved.rename(moved.with_name(f"{folder}-elsewhere"))
        return name

    return harm


def take_a_socket(of: str, name: str) -> Callable[[Laptop], str]:
    def harm(platform: Laptop) -> str:
        path = path_of(platform.home.socket(of))
        assert path
        path.unlink()
        return name

    return harm


def take_envoys_file(platform: Laptop) -> str:
    """It starts from it; while it runs nobody would notice."""
    (platform.home.door / "envoy.json").unlink()
    platform.kill("envoy")
    return "envoy"


HARMS = {
    "the dispatcher's socket is removed": take_the_socket,
    "envoy.json is removed and Envoy dies": take_envoys_file,
    "the socket of a service is removed": take_a_socket("trainer", "trainer"),
    "the socket of the slow edge is removed": take_a_socket("slow-grpc", "gateway"),
    "the socket for spans is removed": take_a_socket("otlp", "monitoring"),
    "the folder of all sockets is moved": move("sockets", "security"),
    "the door's folder is moved": move("door", "envoy"),
    **{f"{name} is stopped": stop(name) for name in ("kafka", "triton", "envoy", "dispatcher")},
    "a service is stopped": stop("inference"),
    "the door's control plane is stopped": stop("gateway"),
}


@pytest.mark.parametrize("harm", HARMS)
async def test_it_comes_back_by_itself(own_laptop: Laptop, harm: str) -> None:
    before = {name: own_laptop.changes.count((name, "ready")) for name in NAMES}
    name = HARMS[harm](own_laptop)

    def back() -> bool:
        return (
            own_laptop.changes.count((name, "ready")) > before[name]
            and own_laptop.process(name).answers()
            and own_laptop.edition.door_is_open()
        )

    await eventually(back, within_s=BACK_S_MAX)

    assert answers_ok(own_laptop.door, "/ready")
    # Monitoring notes what it sees of it too.
    told = [each for each in read(own_laptop.home.history, 50) if each.component == name]
    ended, begun = [each for each in told if each.kind in ("restarted", *FAULTS)][:2]
    assert (ended.kind, ended.mended_by) == ("restarted", "supervisor")
    assert begun.kind in FAULTS
    print(f"{harm}: back after {ended.took_s:.1f} s")


OURS = ("envoy", "dispatcher", "kafka", "triton", *SERVICES)


def listened_on(platform: Laptop) -> set[int]:
    """The ports on which our processes and their children take connections."""
    found: set[int] = set()
    for name in OURS:
        whole = psutil.Process(platform.process(name).pid)
        for process in (whole, *whole.children(recursive=True)):
            found |= {
                each.laddr.port
                for each in process.net_connections("inet")
                if each.status == psutil.CONN_LISTEN
            }
    return found


def test_only_what_others_reach_has_a_port(own_laptop: Laptop) -> None:
    """Whoever takes a port of a service gets what is sent to it: credentials, passwords, tokens."""
    kafka = own_laptop.process("kafka")
    assert isinstance(kafka, Kafka)
    assert listened_on(own_laptop) == {*own_laptop.edition.ports.values(), *kafka.ports.values()}
    assert sorted(own_laptop.edition.ports) == ["door", "kafka", "metrics", "otlp_http"]
    assert sorted(kafka.ports) == ["broker", "controller"]


@pytest.mark.parametrize(
    ("name", "listeners"), [("envoy", ["door"]), ("monitoring", ["metrics", "otlp_http"])]
)
def test_nobody_takes_a_port_while_its_process_is_away(
    own_laptop: Laptop, name: str, listeners: list[str]
) -> None:
    with own_laptop.without(name):
        for listener in listeners:
            port = own_laptop.edition.ports[listener]
            for host in (LOOPBACK, "0.0.0.0"):  # noqa: S104 - it is refused.
                for shared in (False, True):
                    with socket.socket() as other:
                        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, shared)
                        with pytest.raises(OSError, match="already in use"):
                            other.bind((host, port))


NAMES = (
    *("kafka", "triton", "envoy", "dispatcher"),
    *("ingest", "trainer", "inference", "monitoring", "security", "gateway"),
)
