"""What the stores of served batches agree on: their bounds, and how a batch is kept."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import TypeAdapter

from libs.common import flow
from libs.common.events import PredictionSample

# As long as Kafka keeps the events: one that is delivered again is known.
BATCH_US_MAX = flow.PREDICTIONS_SERVED.retention_ms * 1_000
# About 100 bytes each.
BATCHES_MAX = 1_000_000
# Of each version: twice the largest window a comparison may have.
SAMPLE_ROWS_MAX = 10_000
REPORTS_MAX = 200
# One event holds at most a megabyte (bus.MESSAGE_BYTES_MAX).
SAMPLES_BYTES_MAX = 16 * 1024 * 1024

_SAMPLES = TypeAdapter(tuple[PredictionSample, ...])


def packed(samples: Sequence[PredictionSample]) -> bytes:
    return zlib.compress(_SAMPLES.dump_json(tuple(samples)), level=1)


def unpacked(content: bytes) -> tuple[PredictionSample, ...]:
    return _SAMPLES.validate_json(zlib.decompressobj().decompress(content, SAMPLES_BYTES_MAX))


def rows_of(samples: Sequence[PredictionSample]) -> int:
    return sum(len(sample.features) for sample in samples)


def us(at: datetime) -> int:
    return round(at.timestamp() * 1_000_000)


def at_us(value: int) -> datetime:
    return datetime.fromtimestamp(value / 1_000_000, UTC)


def newest_first(
    batches: Sequence[tuple[PredictionSample, ...]], since: datetime | None
) -> list[PredictionSample]:
    samples = [
        sample for batch in batches for sample in batch if since is None or sample.at >= since
    ]
    return sorted(samples, key=lambda sample: sample.at, reverse=True)
