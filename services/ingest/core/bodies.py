"""Opens the JSON in a record's body, under limits."""

from __future__ import annotations

from typing import Any

import orjson

from libs.common.rowfile import repeated_key
from services.ingest.core.limits import JSON_DEPTH_MAX
from services.ingest.core.violation import shown


def parse(body: bytes | bytearray | memoryview | str | None) -> Any:
    """Raises orjson.JSONDecodeError, also for a key that is there twice, since one of its values is
    lost whoever reads it, and for what is nested more deeply than anything we write.
    """
    value = orjson.loads(body)  # pyright: ignore[reportArgumentType] - None is refused.
    content = body if isinstance(body, bytes) else _bytes(body)
    # A count spares nearly every record the walk.
    if content.count(b"{") > 1 or b"[" in content:
        if _deeper(value, JSON_DEPTH_MAX):
            raise orjson.JSONDecodeError(f"it is nested more than {JSON_DEPTH_MAX} deep", "", 0)
        expected = _quotes(value)
    elif isinstance(value, dict):
        expected = 2 * (len(value) + [*map(type, value.values())].count(str))
    else:
        return value
    # Marks that are escaped make more, too: only then every key is looked at.
    if content.count(b'"') != expected and (twice := repeated_key(content)) is not None:
        raise orjson.JSONDecodeError(f"it has the key {shown(twice)} twice", "", 0)
    return value


def _bytes(body: bytearray | memoryview | str | None) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _quotes(value: Any) -> int:
    """How many quotation marks its JSON has, unless some are escaped or a key is there twice."""
    if isinstance(value, dict):
        return 2 * len(value) + sum(map(_quotes, value.values()))
    if isinstance(value, list):
        return sum(map(_quotes, value))
    return 2 if isinstance(value, str) else 0


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return levels == 0 or any(_deeper(each, levels - 1) for each in value)
