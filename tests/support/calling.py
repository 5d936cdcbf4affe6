"""A call to a core as the interceptor makes it: with a caller, and a key that repeats have too."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from libs.common.identity import Caller, set_caller

T = TypeVar("T")


async def called(subject: str, key: str, work: Coroutine[Any, Any, T]) -> T:
    async def call() -> T:
        set_caller(Caller("acme", subject, frozenset(), "", 0.0), key)
        return await work

    # In a task, and so in a context, of its own.
    return await asyncio.create_task(call())
