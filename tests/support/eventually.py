"""Waits for what must become true, without a fixed sleep."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


async def eventually(
    check: Callable[[], T | Awaitable[T]], within_s: float = 10.0, what: str = ""
) -> T:
    """The first truthy answer of `check`, sync or async. Fails when there is none in time.

    While it may still become true, an AssertionError of `check` counts as "not yet".
    """
    give_up_at = time.monotonic() + within_s
    while True:
        problem: AssertionError | None = None
        try:
            answer = check()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer  # pyright: ignore[reportReturnType] - awaited above.
        except AssertionError as error:
            problem = error
        if time.monotonic() > give_up_at:
            raise AssertionError(
                f"Not within {within_s} s: {what or inspect.getsource(check).strip()}"
            ) from problem
        await asyncio.sleep(POLL_S)


async def pause(seconds: float) -> None:
    """The pace of a load, or of a monkey: nothing is waited for."""
    await asyncio.sleep(seconds)
