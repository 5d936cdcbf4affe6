"""Waiting for a condition of another process, always with a deadline."""

import time
from collections.abc import Callable

POLL_S = 0.02


def wait_until(condition: Callable[[], bool], seconds_max: float) -> bool:
    """Ask again and again until the condition holds; False when the time is over."""
    deadline = time.monotonic() + seconds_max
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
