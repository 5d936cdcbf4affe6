"""Opens the JSON in a record's body, under limits."""

from __future__ import annotations

from typing import Any

import orjson

from services.ingest.core.limits import JSON_DEPTH_MAX


def parse(body: bytes | bytearray | memoryview | str | None) -> Any:
    """Raises orjson.JSONDecodeError, also for what is nested more deeply than anything we write."""
    value = orjson.loads(body)  # pyright: ignore[reportArgumentType] - None is refused.
    # Two quick counts spare nearly every record the walk.
    if isinstance(body, bytes) and body.count(b"[") + body.count(b"{") <= JSON_DEPTH_MAX:
        return value
    if _deeper(value, JSON_DEPTH_MAX):
        raise orjson.JSONDecodeError(f"it is nested more than {JSON_DEPTH_MAX} deep", "", 0)
    return value


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper(each, levels - 1) for each in value)
