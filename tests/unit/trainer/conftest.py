"""The trainer's core on a real journal, with a clock that stands still and endless training."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clock import HeldClock
from tests.support.training import EndlessTraining, Trainer, patients


@pytest.fixture
def clock() -> HeldClock:
    return HeldClock()


@pytest.fixture
async def trainer(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Trainer]:
    """Its worker is not started."""
    running = Trainer.at(tmp_path, clock=clock, training=EndlessTraining())
    running.datasets.add("patients", patients(30))
    yield running
    await running.close()
