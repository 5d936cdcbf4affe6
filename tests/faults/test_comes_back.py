"""Alive is not enough: what hangs, was stopped, or lost its files is brought back by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from libs.common.history import read
from standalone.recorder import FAULTS
from tests.support.eventually import eventually
from tests.support.laptop import Laptop
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


def take_envoys_file(platform: Laptop) -> str:
    """It starts from it; while it runs nobody would notice."""
    (platform.home.door / "envoy.json").unlink()
    platform.kill("envoy")
    return "envoy"


HARMS = {
    "the dispatcher's socket is removed": take_the_socket,
    "envoy.json is removed and Envoy dies": take_envoys_file,
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

    assert answers_ok(f"http://{own_laptop.door}/ready")
    # Monitoring notes what it sees of it too.
    told = [each for each in read(own_laptop.home.history, 50) if each.component == name]
    ended, begun = [each for each in told if each.kind in ("restarted", *FAULTS)][:2]
    assert (ended.kind, ended.mended_by) == ("restarted", "supervisor")
    assert begun.kind in FAULTS
    print(f"{harm}: back after {ended.took_s:.1f} s")


NAMES = (
    *("kafka", "triton", "envoy", "dispatcher"),
    *("ingest", "trainer", "inference", "monitoring", "security", "gateway"),
)
