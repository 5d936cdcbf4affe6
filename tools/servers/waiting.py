"""Waiting for a condition of another process, always with a deadline."""

import os
import time
from collections.abc import Callable

POLL_S = 0.02
# With up to so many processes in line for each CPU a machine is as quick as its limits assume.
LOAD_USUAL = 2.0
SLOWNESS_MAX = 5.0


def wait_until(condition: Callable[[], bool], seconds_max: float) -> bool:
    """Ask again and again until the condition holds; False when the time is over."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def load_of_machine() -> float:
    """How many processes are in line for each CPU, of the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def slowness() -> float:
    """How many times as long as usual things may take on this machine now: 1 to SLOWNESS_MAX."""
    return min(max(load_of_machine() / LOAD_USUAL, 1.0), SLOWNESS_MAX)
