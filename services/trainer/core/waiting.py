"""Waiting for an event or a while, whichever comes first."""

from __future__ import annotations

import asyncio


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event was set in time.

    Not `asyncio.wait_for`: in Python 3.11 it loses a cancellation that comes as the event is set.
    """
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
