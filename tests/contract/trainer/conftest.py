"""The trainer with real training processes, without other services."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.training import Trainer, patients


@pytest.fixture
async def trainer(tmp_path: Path) -> AsyncIterator[Trainer]:
    """Its worker is not started: a test may want to queue first."""
    running = Trainer.at(tmp_path)
    running.datasets.add("patients", patients())
    yield running
    await running.close()
