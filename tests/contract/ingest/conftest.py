"""ingest's core with its real consumer, on the session's Kafka: every test has its own source."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.consuming import Consuming, consuming
from tools.servers import Kafka


@pytest.fixture
async def ingest(kafka: Kafka, tmp_path: Path) -> AsyncIterator[Consuming]:
    async with consuming(kafka.bootstrap, tmp_path) as running:
        yield running
