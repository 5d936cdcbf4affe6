"""security hears of nothing by events: it is asked, and tells others what changed."""

from __future__ import annotations

from libs.common.bus import Router


def event_routes() -> Router:
    return Router("security")
