"""Stopping a Kafka client, whose stop may end as though it had been cancelled."""

import asyncio

import pytest

from libs.common.publishing import stopped


async def test_a_stop_that_calls_itself_cancelled_is_a_stop() -> None:
    async def stop() -> None:
        raise asyncio.CancelledError

    await stopped(stop())


async def test_what_a_stop_raises_is_raised() -> None:
    async def stop() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        await stopped(stop())


async def test_who_waits_can_be_cancelled_and_the_stop_with_it() -> None:
    ended = asyncio.Event()

    async def stop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stopped(stop()), 0.01)
    await asyncio.wait_for(ended.wait(), 10)
