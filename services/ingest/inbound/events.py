"""ingest takes in no events of `flow.py`: its input is the upstream topics (kafka_records.py)."""

from __future__ import annotations

from libs.common.bus import Router


def event_routes() -> Router:
    return Router("ingest")
